"""What a search tries of a network and of its training, unless it is told otherwise.

Sizes lie about those that the networks have by default, which suit some ten parameters and some thousand points. Left
out is what changes the meaning of the loss, since losses would not compare: the head of an autoencoder, and the weight
of its divergence.
"""

from collections.abc import Mapping, Sequence

from kinbayes.amortized.building import Plain
from kinbayes.amortized.hyperparameters import Between

Space = dict[str, Between | Sequence[Plain]]

_NARROW, _WIDE = (8, 16, 32, 64, 128), (16, 32, 64, 128, 256)

_TRAINING: Space = {
    "learning_rate": Between(1e-4, 1e-2, is_log=True),
    "weight_decay": Between(1e-6, 1e-2, is_log=True),
    "batch_size": (64, 128, 256, 512),
}

_AUTOENCODER: Space = {
    "enc_num_layers": Between(1, 5),
    "enc_hidden_channels": _WIDE,
    "enc_out_channels": _NARROW,
    "latent_dim": Between(2, 16),
    "dec_num_layers": Between(1, 5),
    "dec_hidden_channels": _WIDE,
}

SPACES: dict[str, Space] = {
    "cvae": _AUTOENCODER,
    # Any of these widths of a token can be shared by any of these numbers of heads.
    "transformer_cvae": _AUTOENCODER
    | {"enc_num_layers": Between(1, 4), "enc_hidden_channels": (16, 32, 64, 128), "num_heads": (1, 2, 4, 8)},
    "flow": {
        "num_layers": Between(2, 10),
        "hidden": (16, 32, 64, 128),
        "depth": Between(1, 3),
        "num_knots": (4, 8, 16),
    },
    # Its validation loss is a score of the points that it generates, in which nothing that shapes the game occurs.
    "ccgan": _AUTOENCODER
    | {
        "vicinity": Between(0.01, 0.2, is_log=True),
        "condition_noise": Between(0.005, 0.1, is_log=True),
        "gradient_penalty": Between(0.01, 10.0, is_log=True),
    },
}


def default_space(network_name: str, given: Mapping[str, Plain]) -> Space:
    """Return what to search of a network and of its training.

    Parameters
    ----------
    network_name
        Name of the network.
    given
        Settings that are not searched, by name.

    Raises
    ------
    ValueError
        If there is no space for such a network, or nothing of it is left to search.
    """
    if network_name not in SPACES:
        raise ValueError(f"there is no space to search for {network_name!r}; choose from {sorted(SPACES)}")
    space = {name: choices for name, choices in (SPACES[network_name] | _TRAINING).items() if name not in given}
    if not space:
        raise ValueError(f"all settings of {network_name!r} are given; leave some to the search, or do without one")
    if "num_heads" in given and "enc_hidden_channels" in space:
        space["enc_hidden_channels"] = [
            width for width in space["enc_hidden_channels"] if not width % given["num_heads"]
        ]
    if "enc_hidden_channels" in given and "num_heads" in space:
        space["num_heads"] = [num for num in space["num_heads"] if not given["enc_hidden_channels"] % num]
    return space

"""What is searched without being asked for."""

import jax
import pytest

from kinbayes.amortized.building import defaults, shapes
from kinbayes.amortized.hyperparameters import Between, training_defaults
from kinbayes.amortized.networks import NETWORKS
from kinbayes.amortized.search_spaces import SPACES, default_space

TRAINING = {"learning_rate", "weight_decay", "batch_size"}
OF_THE_LOSS = {"head", "beta"}


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_all_settings_but_those_of_the_loss_are_searched_about_their_defaults(name):
    space = default_space(name, {})
    assert set(space) == (set(defaults(name)) | TRAINING) - OF_THE_LOSS
    for setting, choices in space.items():
        default = {**training_defaults(), **defaults(name)}[setting]
        if isinstance(choices, Between):
            assert choices.low < default < choices.high
        else:
            assert default in choices


@pytest.mark.parametrize("name", sorted(NETWORKS))
@pytest.mark.parametrize("end", [0, -1])
def test_the_ends_of_a_space_can_be_built(name, end):
    space = default_space(name, {})
    ends = {
        setting: choices[:2][end] if isinstance(choices, Between) else choices[end]
        for setting, choices in space.items()
    }
    own = {**defaults(name), **{setting: value for setting, value in ends.items() if setting not in TRAINING}}
    assert jax.tree.leaves(shapes(name, own, 3))


def test_every_width_of_a_token_can_be_shared_by_every_number_of_heads():
    space = SPACES["transformer_cvae"]
    assert not any(width % num for width in space["enc_hidden_channels"] for num in space["num_heads"])


def test_what_is_given_is_not_searched_and_has_its_say_about_the_rest():
    assert set(default_space("cvae", {"latent_dim": 2, "batch_size": 32})) == set(default_space("cvae", {})) - {
        "latent_dim",
        "batch_size",
    }
    assert default_space("transformer_cvae", {"num_heads": 32})["enc_hidden_channels"] == [32, 64, 128]
    assert default_space("transformer_cvae", {"enc_hidden_channels": 12})["num_heads"] == [1, 2, 4]


def test_nothing_to_search_is_refused():
    with pytest.raises(ValueError, match="all settings of 'flow' are given; leave some"):
        default_space("flow", {**defaults("flow"), **training_defaults()})
    with pytest.raises(ValueError, match="no space to search for 'gan'; choose from"):
        default_space("gan", {})

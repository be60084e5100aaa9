"""Reading the file of a learned proposal.

It may be a stranger's: nothing in it is run. The network is built by its name and its settings, as shapes, and numbers
are read when their sizes are known to be right.
"""

import functools
import json
import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kinbayes.amortized import leaves
from kinbayes.amortized.building import Plain, shapes
from kinbayes.amortized.defensive import Defensive
from kinbayes.amortized.fit import empty_history
from kinbayes.amortized.proposal import FORMAT, HEADER, MOST_CONDITIONS, LearnedProposal, Numbers
from kinbayes.amortized.scaling import NUM_QUANTILES, BoxScaling, ConditionScaling

LARGEST_HEADER = 2**20
LARGEST_DIM = 2**14
_TYPES = {
    "format": str,
    "hash": str,
    "network_name": str,
    "network_settings": dict,
    "num_latents": int,
    "parameter_names": list,
    "parameter_scales": list,
    "problem_hash": str,
    "training": dict,
}


class ProposalFileError(ValueError):
    """A file that holds no learned proposal, or a damaged one."""


def load_proposal(path: str | Path) -> LearnedProposal:
    """Return the proposal of a file.

    The file may be a stranger's: nothing in it is run, and nothing is allocated before its size is known.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ProposalFileError
        If it holds no proposal, one of another version, or one that was changed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such proposal: {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            return _loaded(archive)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise ProposalFileError(f"{path} holds no learned proposal: {error}") from error
    except (ValueError, TypeError) as error:
        raise ProposalFileError(f"{path} holds no learned proposal that can be read: {error}") from error


def _loaded(archive: zipfile.ZipFile) -> LearnedProposal:
    members = archive.infolist()
    if len({member.filename for member in members}) != len(members):
        raise ValueError("two of its parts have the same name")
    if sum(member.file_size for member in members) > leaves.LARGEST + LARGEST_HEADER:
        raise ValueError(f"its parts have more than {leaves.LARGEST} bytes")
    layout = {member.filename.removesuffix(".npy"): _layout(archive, member) for member in members}
    kind, shape = layout.pop(HEADER, ("", ()))
    if kind != "|u1" or len(shape) != 1 or shape[0] > LARGEST_HEADER:
        raise ValueError("it has no header")
    header = _checked_header(_read(archive, HEADER).tobytes())
    settings = {name: _plain(value) for name, value in header["network_settings"].items()}
    dim = len(header["parameter_names"])
    grid = layout.get(".condition_scaling.excess", ("", ()))[1]
    if len(grid) != 1 or grid[0] > NUM_QUANTILES:
        raise ValueError(f"the grid of its condition has the shape {grid}")
    epochs = layout.get(".history.train.loss", ("", ()))[1]
    if len(epochs) != 1:
        raise ValueError(f"the history of its training has the shape {epochs}")
    conditions = layout.get(".conditions", ("", ()))[1]
    if len(conditions) != 1 or conditions[0] > MOST_CONDITIONS:
        raise ValueError(f"its conditions have the shape {conditions}")
    walls, number = np.zeros(dim), np.zeros(())
    structure = Numbers(
        shapes(header["network_name"], settings, dim),
        BoxScaling(walls, walls),
        ConditionScaling(np.asarray(0), number, np.zeros(grid), np.zeros(grid)),
        np.zeros(conditions),
        number,
        Defensive(np.zeros(dim, bool), *[walls] * 4),
        empty_history(epochs[0], dim),
    )
    numbers = leaves.filled(structure, functools.partial(_read, archive), layout)
    proposal = LearnedProposal(
        numbers.network,
        header["network_name"],
        settings,
        numbers.box,
        numbers.condition_scaling,
        numbers.conditions,
        header["num_latents"],
        float(numbers.epsilon),
        numbers.defensive,
        tuple(header["parameter_names"]),
        tuple(header["parameter_scales"]),
        header["problem_hash"],
        {name: _plain(value) for name, value in header["training"].items()},
        numbers.history,
    )
    if proposal.hash != header["hash"]:
        raise ValueError(
            f"its contents have the hash {proposal.hash[:12]}…, and it was saved as {header['hash'][:12]}…"
        )
    return proposal


def _layout(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[str, tuple[int, ...]]:
    """Return type and shape of an array, which are those of as many bytes as there are."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"its part {member.filename!r} is an array of the unknown version {version}")
        shape, is_transposed, kind = np.lib.format.read_array_header_1_0(file)
        size = member.file_size - file.tell()
    if kind.hasobject or (is_transposed and len(shape) > 1) or math.prod(shape) * kind.itemsize != size:
        raise ValueError(
            f"its part {member.filename!r} is no array of numbers in rows, or has another size than it says"
        )
    return kind.str, shape


def _read(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _plain(value: object) -> Plain:
    """Return a setting as it was before it was JSON, which has lists alone."""
    return tuple(map(_plain, value)) if isinstance(value, list) else value


def _checked_header(text: bytes) -> dict:
    try:
        header = json.loads(text)
    except RecursionError as error:
        raise ValueError("its header is too deep") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"its format is not {FORMAT!r}")
    odd = [name for name in header.keys() | _TYPES if type(header.get(name)) is not _TYPES.get(name)]
    if odd:
        raise ValueError(f"its header has no proper {sorted(odd)}")
    words: Sequence = [*header["parameter_names"], *header["parameter_scales"]]
    if not all(isinstance(word, str) for word in words) or not 1 <= len(header["parameter_names"]) <= LARGEST_DIM:
        raise ValueError(f"its parameters are not 1 to {LARGEST_DIM} names")
    return header

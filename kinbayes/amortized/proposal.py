"""A learned proposal: a trained network with all that turns it into points and densities of one problem.

It is a value, and `save` makes a file of it, which holds numbers and words alone, no code.
"""

import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Key, PyTree

from kinbayes.amortized import defensive as components
from kinbayes.amortized import leaves, mixture, scaling
from kinbayes.amortized.building import Plain, check_built, defaults
from kinbayes.amortized.defensive import Defensive
from kinbayes.amortized.fit import History, empty_history
from kinbayes.amortized.networks.base import Network
from kinbayes.amortized.scaling import CONDITION_KINDS, BoxScaling, ConditionScaling
from kinbayes.problem.problem import Problem
from kinbayes.samplers.base import Proposal

FORMAT = "kinbayes learned proposal 1"
HEADER = "header"
MOST_LATENTS, MOST_CONDITIONS = 2**16, 2**6


class ProposalNotExactError(ValueError):
    """A network without a density, which no exact sampler can use."""


class Generated(NamedTuple):
    """Hold generated points.

    Attributes
    ----------
    U
        Scaled points, (n, dim).
    is_outside
        Whether they lie outside the problem's bounds, (n,).
    num_outside
        How many do, by parameter; those that have none are left out.
    """

    U: Float[np.ndarray, "n dim"]
    is_outside: Bool[np.ndarray, " n"]
    num_outside: dict[str, int]


class Numbers(NamedTuple):
    """Hold the arrays of a proposal, as they are in its file."""

    network: PyTree
    box: BoxScaling
    condition_scaling: ConditionScaling
    conditions: Float[np.ndarray, " conditions"]
    epsilon: Float[np.ndarray, ""]
    defensive: Defensive
    history: History


@dataclass(frozen=True, eq=False)
class LearnedProposal:
    """Hold a trained network with all that turns it into points and densities of one problem.

    Parameters
    ----------
    network
        The network.
    network_name, network_settings
        Its name in `NETWORKS`, and all settings that it was built with.
    box, condition_scaling
        What it was trained through.
    conditions
        What is asked for, one of them for every point, in equal shares: 0 is the best loss of the archive and no other,
        1 the worst. The density is that of all together, so several of them cover what lies between.
    num_latents
        Latents of an estimate of the density, at every condition. More of them make weights more even, at more
        evaluations of the network.
    epsilon
        Share of the defensive component; 0.05 to 0.1 costs as much of the draws, and bounds the weights.
    defensive
        The defensive component.
    parameter_names, parameter_scales
        Of the problem's parameters.
    problem_hash
        Of the problem whose simulations it was trained on.
    training
        Facts of the training, for who reads the file: words and finite numbers.
    history
        How well the network did after every epoch of it.

    Raises
    ------
    ValueError
        If a setting is out of range, or the parts do not fit together.
    TypeError
        If the network has leaves that are no arrays.
    """

    network: Network
    network_name: str
    network_settings: Mapping[str, Plain]
    box: BoxScaling
    condition_scaling: ConditionScaling
    conditions: Float[np.ndarray, " conditions"]
    num_latents: int
    epsilon: float
    defensive: Defensive
    parameter_names: tuple[str, ...]
    parameter_scales: tuple[str, ...]
    problem_hash: str
    training: Mapping[str, Plain]
    history: History

    def __post_init__(self) -> None:
        leaves.arrays(self.network)
        if not 0 < self.epsilon < 1:
            raise ValueError(f"epsilon is {self.epsilon}; it must lie between 0 and 1, and 0.05 to 0.1 is usual")
        if not 1 <= self.num_latents <= MOST_LATENTS:
            raise ValueError(f"num_latents is {self.num_latents}; it must lie between 1 and {MOST_LATENTS}")
        if not (1 <= len(self.conditions) <= MOST_CONDITIONS and np.isfinite(self.conditions).all()):
            raise ValueError(
                f"conditions are {self.conditions}; they must be 1 to {MOST_CONDITIONS} finite numbers, and lie within "
                "[0, 1] for what is known"
            )
        dim = len(self.parameter_names)
        sizes = {len(self.parameter_scales), *(len(part) for part in (*self.box, *self.defensive))}
        if sizes != {dim}:
            raise ValueError(f"there are {dim} parameters, and parts for {sorted(sizes - {dim})}")
        if not (np.isfinite(self.box).all() and (np.asarray(self.box.lower) < self.box.upper).all()):
            raise ValueError("the box must be finite, and its lower walls below the upper ones")
        is_grid = len(self.condition_scaling.excess) >= 2 and all(
            np.isfinite(part).all() and (np.diff(part) > 0).all() for part in self.condition_scaling[2:]
        )
        if not (is_grid and 0 <= self.condition_scaling.kind < len(CONDITION_KINDS)):
            raise ValueError(
                "the condition's scaling is none: its grid must be finite and ascending, its kind a known one"
            )

    def for_sampler(self) -> Proposal:
        """Return what a sampler draws from.

        Raises
        ------
        ProposalNotExactError
            If the network has no density.
        """
        if not self.network.has_density:
            raise ProposalNotExactError(
                f"the network {self.network_name!r} with the settings {dict(self.network_settings)} has no density, so "
                "no sampler could accept its points and stay exact: train one with another head (gaussian, student_t, "
                "continuous_bernoulli) or a flow, or use its points as starts (generate)"
            )
        parts = mixture.Mixture(
            self.network,
            BoxScaling(*map(jnp.asarray, self.box)),
            Defensive(*map(jnp.asarray, self.defensive)),
            jnp.asarray(self.conditions),
            jnp.asarray(float(self.epsilon)),
            self.num_latents,
        )
        return Proposal(Partial(mixture.draw, parts), Partial(mixture.log_density, parts))

    def generate(self, seed: int, n: int, condition: float | None = None) -> Generated:
        """Return scaled points of the network alone, to start from; any network has them.

        Parameters
        ----------
        seed
            The same seed, the same points.
        n
            Number of points.
        condition
            What to ask for; by default the proposal's own, in turn. Outside [0, 1] it is an extrapolation.
        """
        asked = np.resize(self.conditions if condition is None else float(condition), n)
        y = _generate(self.network, jax.random.key(seed), jnp.asarray(asked))
        U = np.asarray(scaling.from_box(self.box, y))
        bounds = BoxScaling(np.asarray(self.defensive.lower), np.asarray(self.defensive.upper))
        outside = scaling.num_outside(bounds, U, self.parameter_names)
        return Generated(U, ~np.asarray(scaling.is_inside(bounds, U)), outside)

    @functools.cached_property
    def hash(self) -> str:
        """The SHA-256 digest of all numbers and settings, the same in every process."""
        digest = hashlib.sha256(_text(self._header()))
        for name, array in sorted(self._arrays().items()):
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()

    def _header(self) -> dict[str, object]:
        return {
            "format": FORMAT,
            "network_name": self.network_name,
            "network_settings": dict(self.network_settings),
            "num_latents": self.num_latents,
            "parameter_names": list(self.parameter_names),
            "parameter_scales": list(self.parameter_scales),
            "problem_hash": self.problem_hash,
            "training": dict(self.training),
        }

    def _arrays(self) -> dict[str, np.ndarray]:
        epsilon = np.asarray(float(self.epsilon))
        numbers = Numbers(
            self.network, self.box, self.condition_scaling, self.conditions, epsilon, self.defensive, self.history
        )
        return leaves.arrays(numbers)

    def save(self, path: str | Path) -> None:
        """Write the proposal into a file (.npz, no pickle); one of that name is replaced whole.

        Raises
        ------
        TypeError, ValueError
            If facts of the training or settings are no words and finite numbers.
        """
        path = Path(path)
        header = np.frombuffer(_text({**self._header(), "hash": self.hash}), np.uint8)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with beside.open("wb") as file:
                np.savez(file, allow_pickle=False, **{HEADER: header}, **self._arrays())
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)


def learned_proposal(
    problem: Problem,
    network: Network,
    *,
    network_name: str,
    network_settings: Mapping[str, Plain],
    box: BoxScaling,
    condition_scaling: ConditionScaling,
    condition: float | Sequence[float] | Float[np.ndarray, " conditions"] | None = None,
    num_latents: int = 4,
    epsilon: float = 0.05,
    training: Mapping[str, Plain] | None = None,
    history: History | None = None,
) -> LearnedProposal:
    """Return the proposal of a trained network for a problem; see `LearnedProposal` for the parts.

    Settings that are not given are the network's defaults, and are kept with it. Without a condition it is that of the
    posterior's bulk, `kinbayes.amortized.scaling.posterior_condition`.

    Raises
    ------
    ValueError
        If the network is not what its name and settings build, or as `LearnedProposal` says.
    """
    if condition is None:
        condition = scaling.posterior_condition(condition_scaling, problem.dim)
    settings = {**defaults(network_name), **network_settings}
    check_built(network, network_name, settings, problem.dim)
    return LearnedProposal(
        network,
        network_name,
        settings,
        BoxScaling(*map(np.asarray, box)),
        condition_scaling,
        np.atleast_1d(np.asarray(condition, float)),
        num_latents,
        float(epsilon),
        components.defensive(problem),
        tuple(problem.parameter_names),
        tuple(problem.scale),
        problem.hash,
        dict(training or {}),
        empty_history(dim=problem.dim) if history is None else history,
    )


@jax.jit
def _generate(network: Network, key: Key[Array, ""], c: Float[Array, " n"]) -> Float[Array, "n dim"]:
    return network.generate(key, c)


def _text(header: Mapping[str, object]) -> bytes:
    return json.dumps(header, sort_keys=True, allow_nan=False).encode()

"""The No-U-Turn sampler of nutpie, whose loop calls machine code and no Python."""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

# Of the low-rank mass matrix, against noise in its directions. On a posterior of 9 parameters nutpie's own 1e-5 left
# some runs of 4000 draws with 250 effective ones in the tails; with this none had fewer than 750.
REGULARIZATION = 1e-3
MOST_CLIMBS = 200  # iterations of L-BFGS before warmup
BESIDE = 1e-3  # from a start that nutpie refuses to the next that it is offered, in units of x


class NativeTarget(NamedTuple):
    """State a log density in unconstrained space as C functions.

    Attributes
    ----------
    dim
        Number of entries of x.
    density
        Address of int64(uint64 dim, double* x, double* gradient, double* log_density, void* words), which returns 0,
        or a positive number where there is no density.
    expand
        Address of int64(uint64 dim, uint64 dim + 2, double* x, double* out, void* words), which writes u, the log
        prior and log|det du/dx|.
    words
        What both are handed.
    value_and_grad
        x -> log density and its gradient: the same for a caller in Python; -inf and zeros where there is none.
    owner
        What keeps the addresses good.
    """

    dim: int
    density: int
    expand: int
    words: Int[np.ndarray, " words"]
    value_and_grad: Callable
    owner: object


class Draws(NamedTuple):
    """Hold the draws of one chain, those of its warmup first; `info` has the statistics by name, as in `nuts`."""

    position: Float[np.ndarray, "draws dim"]
    log_prior: Float[np.ndarray, " draws"]
    log_likelihood: Float[np.ndarray, " draws"]
    info: dict[str, np.ndarray]


# nutpie's names of them.
_STATISTICS = {
    "acceptance_rate": "mean_tree_accept",
    "diverging": "diverging",
    "energy": "energy",
    "tree_depth": "depth",
    "n_steps": "n_steps",
    "step_size": "step_size",
}


class _Address(NamedTuple):
    address: int


class Chain:
    """One chain, at work in a thread of its own.

    Parameters
    ----------
    target
        The posterior.
    host
        nutpie's sampler.
    """

    def __init__(self, target: NativeTarget, host: object) -> None:
        self._target = target
        self._host = host
        self._all: Draws | None = None

    def wait(self, seconds: float) -> bool:
        """Wait for the chain's end, not longer than some seconds; return whether it has come.

        Raises
        ------
        RuntimeError
            If the chain could not be started.
        """
        if self._all is None:
            try:
                self._all = _draws(self._host.wait(timeout=seconds), self._target.dim)
            except TimeoutError:
                return False
            except RuntimeError as error:
                raise RuntimeError(
                    "nutpie could not start a chain: at its start and beside it the density fails, or an entry of its "
                    "gradient is 0; start it elsewhere"
                ) from error
        return True

    def stop(self) -> None:
        """End the chain; its draws stay."""
        if self._all is None:
            self._all = _draws(self._host.abort(), self._target.dim)

    def draws(self) -> Draws:
        """Return all draws there are."""
        return _draws(self._host.inspect(), self._target.dim) if self._all is None else self._all


def start_chain(
    target: NativeTarget,
    start: Float[np.ndarray, " dim"],
    *,
    num_warmup: int,
    num_draws: int,
    seed: int,
    step_size: float = 0.1,
    target_acceptance: float = 0.8,
    max_tree_depth: int = 10,
    mass_matrix: str = "low_rank",
    climb: bool = True,
) -> Chain:
    """Start a chain of the No-U-Turn sampler in a thread of its own.

    Every chain is a run of nutpie's by itself: so its start and its random numbers are its own, and no draw depends on
    the number of threads.

    Parameters
    ----------
    target
        The posterior.
    start
        Where the chain starts, in unconstrained space.
    num_warmup, num_draws
        Numbers of iterations that tune, at least 1, and of those that follow.
    seed
        Seed of the chain's random numbers.
    step_size
        Leapfrog step with which the search for one begins, in units of the mass matrix.
    target_acceptance
        Mean acceptance rate that dual averaging aims at; higher is slower and diverges less.
    max_tree_depth
        Largest number of doublings: a trajectory has fewer than ``2**max_tree_depth`` steps.
    mass_matrix
        What warmup learns from draws and gradients: ``diagonal``, or ``low_rank``, which is a diagonal one and those
        directions beside it that need other scales.
    climb
        Whether a chain that starts far below the bulk of the posterior first climbs, by L-BFGS, as long as an iteration
        raises the log density by more than `dim`. Inside the bulk none does, and the start stays what it is.

    Raises
    ------
    ValueError
        If a setting has no meaning.

    References
    ----------
    Hoffman and Gelman (2014), The No-U-Turn sampler, Journal of Machine Learning Research 15.
    Byrd, Lu, Nocedal and Zhu (1995), A limited memory algorithm for bound constrained optimization, SIAM Journal on
    Scientific Computing 16. doi:10.1137/0916069
    """
    _check(num_warmup, step_size, target_acceptance, max_tree_depth, mass_matrix)
    import nutpie
    from nutpie.compile_pymc import CompiledPyMCModel

    names = [*_entries(target.dim), *_PARTS]
    model = CompiledPyMCModel(
        dims={},
        compiled_logp_func=_Address(target.density),
        compiled_expand_func=_Address(target.expand),
        initial_point_func=_starts(_climbed(target, start) if climb else start),
        shared_data={},
        user_data=target.words,
        n_expanded=len(names),
        shape_info=(names, [], [()] * len(names)),
        logp_func=target,  # nutpie keeps the model alive, and with it what the addresses belong to
        expand_func=target,
        _n_dim=target.dim,
        _shapes={},
        _coords={},
    )
    is_low_rank = mass_matrix == "low_rank"
    host = nutpie.sample(
        model,
        draws=num_draws,
        tune=num_warmup,
        chains=1,
        cores=1,
        seed=seed,
        progress_bar=False,
        blocking=False,
        return_raw_trace=True,
        low_rank_modified_mass_matrix=is_low_rank,
        initial_step=step_size,
        target_accept=target_acceptance,
        maxdepth=max_tree_depth,
        **({"mass_matrix_gamma": REGULARIZATION} if is_low_rank else {}),
    )
    return Chain(target, host)


def _check(num_warmup: int, step_size: float, target_acceptance: float, max_tree_depth: int, mass_matrix: str) -> None:
    if num_warmup < 1:
        raise ValueError("nutpie's step size and mass matrix come from the warmup: it needs 1 iteration at least")
    if not 0 < step_size < math.inf:
        raise ValueError(f"step_size is {step_size}; it must be a finite positive number")
    if not 0 < target_acceptance < 1:
        raise ValueError(f"target_acceptance is {target_acceptance}; it must lie between 0 and 1")
    if max_tree_depth < 1:
        raise ValueError(f"max_tree_depth is {max_tree_depth}; it must be at least 1")
    if mass_matrix not in ("diagonal", "low_rank"):
        raise ValueError(f"unknown mass_matrix {mass_matrix!r}; choose 'diagonal' or 'low_rank'")


def _climbed(target: NativeTarget, start: Float[np.ndarray, " dim"]) -> Float[np.ndarray, " dim"]:
    """Return the point from which no iteration of L-BFGS raises the log density by more than `dim`."""
    from scipy.optimize import minimize

    highest, value = start, target.value_and_grad(start)[0]
    failing = 1e3 * (1 + abs(value)) - value  # finite, for line searches

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        found, gradient = target.value_and_grad(x)
        return (-found, -gradient) if found > -math.inf else (failing, np.zeros(target.dim))

    def stop_when_flat(intermediate_result: object) -> None:  # SciPy goes by this name
        nonlocal highest, value
        if -intermediate_result.fun <= value + target.dim:
            raise StopIteration
        highest, value = intermediate_result.x.copy(), -intermediate_result.fun

    minimize(loss, start, jac=True, method="L-BFGS-B", callback=stop_when_flat, options={"maxiter": MOST_CLIMBS})
    return highest


def _starts(start: Float[np.ndarray, " dim"]) -> Callable[[int], np.ndarray]:
    """Return the function that nutpie asks for starts: first the given one, then points beside it.

    It asks again where an entry of the gradient is exactly 0, as in the middle of a box: no scale can be told there.
    """
    tries = itertools.count()

    def offered(seed: int) -> np.ndarray:
        spread = BESIDE if next(tries) else 0.0
        return start + spread * np.random.default_rng(seed).standard_normal(start.shape)

    return offered


_PARTS = ("log prior", "log volume")


def _entries(dim: int) -> list[str]:
    return [f"u {k}" for k in range(dim)]


def _draws(trace: object, dim: int) -> Draws:
    """Return the draws of a trace of one chain; its columns can be taken once only."""
    (values,), (statistics,) = trace.get_arrow_trace()
    *position, log_prior, log_volume = (values.column(name).to_numpy() for name in (*_entries(dim), *_PARTS))
    return Draws(
        np.stack(position, axis=-1),
        log_prior,
        statistics.column("logp").to_numpy() - log_prior - log_volume,
        {ours: _signed(statistics.column(theirs).to_numpy()) for ours, theirs in _STATISTICS.items()},
    )


def _signed(values: np.ndarray) -> np.ndarray:
    return values.astype(np.int64) if values.dtype == np.uint64 else values

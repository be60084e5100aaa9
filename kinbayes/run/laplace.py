"""The Laplace approximation: the normal distribution that a posterior resembles at its mode."""

import math
import time

import numpy as np
from jaxtyping import Float

from kinbayes.problem.parameters import natural
from kinbayes.problem.problem import Problem
from kinbayes.results.importance import importance
from kinbayes.results.mode_store import laplace_data
from kinbayes.results.store import InferenceData
from kinbayes.run import record
from kinbayes.run.curvature import Curvature, curvature, walls
from kinbayes.run.starts.chain_starts import best_estimate
from kinbayes.run.starts.spread import prior_width

WIDEST = 2.0  # variance along a direction, of the prior's there: a normal prior by itself gives 1, to rounding
WIDEST_IMPROPER = 1e4  # standard deviation of a parameter without a prior, of that given all others
MIN_TO_ERROR = 5.0  # smallest eigenvalue of the Hessian to its error: the variance there is then known to a fifth
OFF_MODE = 0.01  # log density that a Newton step promises: a seventh of a standard deviation from the mode
MIN_INSIDE = 0.01  # share of draws between the walls
_NAMED = 4  # parameters of a direction, or on walls
_SMALL = 0.1  # of its largest component: those below are not named


class LaplaceError(ValueError):
    """A mode that has no normal approximation."""


def laplace(
    problem: Problem, mode: InferenceData, *, draws: int = 1000, chains: int = 4, seed: int = 0
) -> InferenceData:
    """Approximate a posterior by the normal distribution in u about its mode.

    Its covariance is the inverse of the negative Hessian of the log posterior density. The normal itself is not cut at
    walls, but no draw lies beyond one: those that did were drawn anew, and `share_outside` says how many. Draws are
    independent, and the posterior's own density is known for each: `k_hat` and `effective_share` say how well the two
    agree (k-hat above 0.7: the approximation misses tails of the posterior).

    Parameters
    ----------
    problem
        The problem.
    mode
        A result of `optimize`, of which the best point is taken.
    draws, chains
        Number of draws of a chain, and of chains. Chains mean nothing here, but other functions expect them.
    seed
        Seeds the draws.

    Returns
    -------
    InferenceData
        Groups `posterior` (natural units), `sample_stats` (`lp`, the posterior's log density, and `log_approximation`,
        that of the uncut normal), `laplace` (mode, standard deviations, covariance and Hessian in u), `observed_data`,
        `constant_data`. The attribute `approximation` is "laplace"; `log_evidence` is that of Tierney and Kadane.

    Raises
    ------
    LaplaceError
        If the mode lies on a wall, is none (a Newton step promises more than 0.01 of log density), or a direction
        there is not determined: the density does not fall, or so slowly that the approximation's variance would exceed
        twice that of the prior, or falls by less than can be told from the errors of simulations.
    ValueError
        If the result is of another problem, or there are no draws to make.

    References
    ----------
    Tierney and Kadane (1986), Accurate approximations for posterior moments and marginal densities, Journal of the
    American Statistical Association 81, doi:10.1080/01621459.1986.10478240.
    """
    began = time.perf_counter()
    if draws < 1 or chains < 1:
        raise ValueError(f"draws is {draws} and chains {chains}; both must be at least 1")
    rng = np.random.default_rng(seed)
    position = best_estimate(problem, mode)
    _refuse_walls(problem, position)
    log_density = float(problem.log_density(position))
    if not math.isfinite(log_density):
        raise LaplaceError(f"the log density at the mode is {log_density}; give the result of kinbayes.optimize")
    found = curvature(problem, position, prior_width(problem, rng))
    _refuse_directions(problem, found, _widths(problem, found, rng))
    covariance = _inverse(-found.hessian)
    _refuse_slope(problem, found, covariance)
    points, share_outside = _drawn(problem, position, covariance, chains * draws, rng)
    evaluated = problem.evaluate(points)
    lp, log_normal = evaluated.log_likelihood + evaluated.log_prior, _log_normal(points, position, covariance)
    weights = importance(lp - log_normal)
    log_evidence = log_density - float(_log_normal(position[None], position, covariance)[0])
    num_gradients = 1 + 4 * problem.dim + 1
    attrs = record.attributes(
        problem,
        algorithm="laplace",
        settings={"draws": draws, "chains": chains},
        seed=seed,
        wall_time=time.perf_counter() - began,
        simulations=(len(points) + num_gradients) * problem.num_lanes,
    )
    return laplace_data(
        record.parameter_table(problem),
        record.measurement_table(problem),
        draws=natural(points, problem.scale).reshape(chains, draws, -1),
        sample_stats={
            "lp": lp.reshape(chains, draws),
            "log_prior": evaluated.log_prior.reshape(chains, draws),
            "log_approximation": log_normal.reshape(chains, draws),
        },
        mode=position,
        hessian=found.hessian,
        covariance=covariance,
        attrs=attrs
        | {
            "approximation": "laplace",
            "mode_log_density": log_density,
            "log_evidence": log_evidence,
            "share_outside": share_outside,
            "k_hat": weights.k_hat,
            "effective_share": weights.effective_share,
        },
    )


# ---- what is refused


def _refuse_walls(problem: Problem, position: Float[np.ndarray, " dim"]) -> None:
    low, high = walls(problem)
    theta = natural(np.stack([np.asarray(problem.lower), np.asarray(problem.upper)]), problem.scale)
    held = [
        f"{name} on its {side} bound, {wall[k]:.6g}"
        for k, name in enumerate(problem.parameter_names)
        for side, wall, is_on in (("lower", theta[0], position <= low), ("upper", theta[1], position >= high))
        if is_on[k]
    ]
    if held:
        more = f"; and {len(held) - _NAMED} more" if len(held) > _NAMED else ""
        raise LaplaceError(
            f"the mode lies on a wall ({'; '.join(held[:_NAMED])}{more}), where the density ends and a normal "
            "distribution does not: widen the bounds if they are not meant, or use kinbayes.profile or "
            "kinbayes.sample, which respect them"
        )


def _widths(problem: Problem, found: Curvature, rng: np.random.Generator) -> Float[np.ndarray, " dim"]:
    """Return what a standard deviation is compared with: the prior's, of parameters that have one."""
    with np.errstate(divide="ignore"):
        alone = WIDEST_IMPROPER / np.sqrt(np.abs(np.diag(found.hessian)))
    is_proper = np.array([p.is_proper for p in problem.estimated])
    return np.where(is_proper, prior_width(problem, rng), np.where(np.isfinite(alone), alone, 1.0))


def _refuse_directions(problem: Problem, found: Curvature, width: Float[np.ndarray, " dim"]) -> None:
    """Refuse a Hessian that leaves a direction undetermined."""
    values, vectors = np.linalg.eigh(-found.hessian * np.outer(width, width))
    if not values[0] > 1 / WIDEST:
        direction, value = _direction(problem, vectors[:, 0]), float(values[0])
        what = (
            f"the log density curves upwards along {direction} (eigenvalue {value:.3g} of the negative Hessian"
            if value < 0
            else f"{direction} is not determined: the approximation would be {value**-0.5:.3g} times as wide as the "
            f"prior (eigenvalue {value:.3g} of the negative Hessian"
        )
        raise LaplaceError(
            f"{what}, in units of the prior's widths; at least {1 / WIDEST:g} is needed). The data do not tell these "
            "parameters apart, or the point is no mode: fix one of them or give it a narrower prior; kinbayes.profile "
            "and kinbayes.sample show how far they may go"
        )
    # Freed of units, so that the error of a stiff parameter does not hide a soft one.
    size = np.sqrt(-np.diag(found.hessian))
    values, vectors = np.linalg.eigh(-found.hessian / np.outer(size, size))
    error = float(np.linalg.norm(found.asymmetry / np.outer(size, size), ord=2))
    if values[0] < MIN_TO_ERROR * error:
        raise LaplaceError(
            f"the Hessian is numerically singular along {_direction(problem, vectors[:, 0] / size / width)}: its "
            f"smallest eigenvalue, {values[0]:.3g} with unit diagonal, is less than {MIN_TO_ERROR:g} times the error "
            f"of the derivatives, {error:.3g}. Set tighter tolerances (rtol={problem.rtol / 100:.3g}), or fix one of "
            "them"
        )


def _direction(problem: Problem, vector: Float[np.ndarray, " dim"]) -> str:
    """Return a direction by its largest components, the first of them positive."""
    order = np.argsort(-np.abs(vector), kind="stable")
    unit = vector / np.linalg.norm(vector) * np.sign(vector[order[0]])
    shown = [k for k in order[:_NAMED] if abs(unit[k]) >= _SMALL * abs(unit[order[0]])]
    terms = [f"{'-' if unit[k] < 0 else '+'} {abs(unit[k]):.2f} {problem.parameter_names[k]}" for k in shown]
    return " ".join(terms).removeprefix("+ ")


def _refuse_slope(problem: Problem, found: Curvature, covariance: Float[np.ndarray, "dim dim"]) -> None:
    """Refuse a point from which a Newton step leads up."""
    step = covariance @ found.gradient
    promised = float(found.gradient @ step) / 2
    if promised > OFF_MODE:
        deviations = step / np.sqrt(np.diag(covariance))
        k = int(np.argmax(np.abs(deviations)))
        raise LaplaceError(
            f"the point is no mode: a Newton step promises {promised:.3g} of log density, and moves "
            f"{problem.parameter_names[k]} by {deviations[k]:.3g} standard deviations. Go on with kinbayes.optimize: "
            "more max_evaluations, more starts or another optimizer"
        )


# ---- the normal


def _inverse(precision: Float[np.ndarray, "dim dim"]) -> Float[np.ndarray, "dim dim"]:
    """Return the inverse of a positive definite matrix, whatever the units of its rows."""
    size = np.sqrt(np.diag(precision))
    values, vectors = np.linalg.eigh(precision / np.outer(size, size))
    return (vectors / values) @ vectors.T / np.outer(size, size)


def _drawn(
    problem: Problem,
    mean: Float[np.ndarray, " dim"],
    covariance: Float[np.ndarray, "dim dim"],
    size: int,
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "size dim"], float]:
    """Return draws between the walls, and the share that was not."""
    lower, upper = np.asarray(problem.lower), np.asarray(problem.upper)
    sd = np.sqrt(np.diag(covariance))
    factor = sd[:, None] * np.linalg.cholesky(covariance / np.outer(sd, sd))
    kept, num_kept, num_tried = [], 0, 0
    while num_kept < size:
        points = mean + rng.normal(size=(size, len(mean))) @ factor.T
        is_inside = np.all((lower <= points) & (points <= upper), axis=1)
        kept.append(points[is_inside])
        num_kept, num_tried = num_kept + int(is_inside.sum()), num_tried + size
        if num_kept < MIN_INSIDE * num_tried:
            raise LaplaceError(
                f"of {num_tried} draws of the normal approximation {num_tried - num_kept} lie beyond the bounds: it "
                "has nothing to do with the posterior; use kinbayes.sample"
            )
    return np.concatenate(kept)[:size], 1 - num_kept / num_tried


def _log_normal(
    points: Float[np.ndarray, "n dim"], mean: Float[np.ndarray, " dim"], covariance: Float[np.ndarray, "dim dim"]
) -> Float[np.ndarray, " n"]:
    sd = np.sqrt(np.diag(covariance))
    factor = np.linalg.cholesky(covariance / np.outer(sd, sd))
    z = np.linalg.solve(factor, ((points - mean) / sd).T)
    log_volume = np.log(sd).sum() + np.log(np.diag(factor)).sum() + len(mean) / 2 * math.log(2 * math.pi)
    return -np.sum(z**2, axis=0) / 2 - log_volume

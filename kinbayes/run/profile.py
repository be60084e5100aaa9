"""Profiles of the posterior: for every value of a parameter the best that all others can make of it."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from kinbayes.optimizers import OPTIMIZERS
from kinbayes.optimizers.base import Bounds
from kinbayes.problem.parameters import natural
from kinbayes.problem.problem import Problem
from kinbayes.results.mode_store import Profiles, profile_data
from kinbayes.results.profile_interval import chi_square_drop, profile_intervals
from kinbayes.results.store import InferenceData
from kinbayes.run import record
from kinbayes.run.loop.search import search
from kinbayes.run.starts.chain_starts import best_estimate
from kinbayes.run.starts.spread import inside, laplace, prior_width

DROP = 3.3175  # half the 99 % quantile of chi-square with one degree of freedom: past the ends of a 95 % interval
BETTER = 0.01  # log density by which a point is better than the mode
_MOST_STEPS = 0.6  # of the points of a side: so many equal steps lead to the drop, the others serve slow starts
_LONGEST = 1 / 8  # of a parameter's range: a flat profile reaches a wall in eight steps, and is seen to be flat
_SHORTEST = 1e-4  # of a direction's first step, below which nothing is to be found
_OVERSHOT = 2.0  # times the step that was aimed at: a longer one is taken back
_LOSS_TOLERANCE = 1e-4  # of a point: moves the ends of intervals by a ten-thousandth of a standard deviation
_EACH = 200  # evaluations of one point


@dataclass
class _Walk:
    """A walk from the mode to lower or higher values of a parameter.

    `points`, `log_density` and `converged` begin at the mode; `slope` is du/du_k, along which the next optimum is
    looked for.
    """

    parameter: int
    sign: int
    step: float
    first_step: float
    slope: Float[np.ndarray, " dim"]
    points: list[Float[np.ndarray, " dim"]]
    log_density: list[float]
    converged: list[bool]
    stopped: str = ""


def profile(
    problem: Problem,
    mode: InferenceData,
    *,
    parameters: Sequence[str] | None = None,
    num_points: int = 20,
    drop: float = DROP,
    seed: int = 0,
) -> InferenceData:
    """Walk along every parameter to both sides of a mode, and find the best values of all others at each step.

    What is profiled is the log posterior density with respect to u; with uniform priors that is the likelihood. A walk
    ends where the density has dropped by `drop`, at a wall, or after `num_points` points. Steps adapt: the root of the
    drop, which is a straight line for a normal posterior, shall grow evenly. All walks advance side by side.

    Searches are local and begin at the neighbouring point: an optimum that branches off elsewhere may be missed. One
    that is better than the mode by more than 0.01 is told of by the attribute `better_mode`.

    Parameters
    ----------
    problem
        The problem.
    mode
        A result of `optimize`, of which the best point is taken.
    parameters
        Names of those to profile; by default all.
    num_points
        Largest number of points of a side, the mode not counted.
    drop
        Log density below the mode at which a walk ends; by default enough for intervals of 99 %.
    seed
        Seeds all that is random.

    Returns
    -------
    InferenceData
        Groups `profile`, `observed_data`, `constant_data`. The first has for every parameter and point `value` and
        `position` (natural units), `log_density`, `log_prior`, `converged`; and for every parameter the ends of its
        95 % interval, `lower` and `upper`, `open_below` and `open_above`, what closes an end or why it is open (`below`
        and `above`, see `profile_intervals`) and its walls.

    Raises
    ------
    ValueError
        If a name is unknown, a setting out of its range, or the result is of another problem.

    References
    ----------
    Raue, Kreutz, Maiwald, Bachmann, Schilling, Klingmüller, Timmer (2009), Structural and practical identifiability
    analysis of partially observed dynamical models by exploiting the profile likelihood, Bioinformatics 25,
    doi:10.1093/bioinformatics/btp358.
    """
    began = time.perf_counter()
    names = list(problem.parameter_names) if parameters is None else list(parameters)
    _check(problem, names, num_points, drop)
    lower, upper = np.asarray(problem.lower), np.asarray(problem.upper)
    position = np.clip(best_estimate(problem, mode), lower, upper)
    log_density = float(problem.value_and_grad(position)[0])
    if not math.isfinite(log_density):
        raise ValueError(f"the log density at the mode is {log_density}; give the result of kinbayes.optimize")
    aim = math.sqrt(2 * drop) / (_MOST_STEPS * num_points)
    indices = [problem.parameter_names.index(name) for name in names]
    walks = _begun(problem, position, log_density, indices, aim, np.random.default_rng(seed))
    evaluations = 4 * problem.dim + 3
    highest = log_density
    for walk in walks:
        _look_for_wall(walk, lower, upper)
    for round_ in range(2 * num_points):
        if all(walk.stopped for walk in walks):
            break
        found, spent = _optima(problem, walks, lower, upper, seed + round_)
        evaluations += spent
        for walk, (point, value, is_converged) in zip(walks, found, strict=True):
            if not walk.stopped:
                _advance(walk, point, value, is_converged, highest, aim, lower, upper)
                if highest - walk.log_density[-1] >= drop:
                    walk.stopped = "drop"
                elif len(walk.points) > num_points and not walk.stopped:
                    walk.stopped = "points"
        highest = max(highest, *(walk.log_density[-1] for walk in walks))
    profiles = _profiles(problem, names, walks, num_points)
    table, measured = record.parameter_table(problem), record.measurement_table(problem)
    attrs = record.attributes(
        problem,
        algorithm="profile",
        settings={"parameters": names, "num_points": num_points, "drop": drop},
        seed=seed,
        wall_time=time.perf_counter() - began,
        simulations=evaluations * problem.num_lanes,
    )
    attrs |= {"drop": drop, "mode_log_density": log_density, "better_mode": _better(problem, profiles, log_density)}
    bounds = natural(np.stack([lower, upper]), problem.scale)[:, indices]
    walls = {"lower_wall": bounds[0], "upper_wall": bounds[1]}
    bare = profile_data(table, measured, profiles, intervals=walls, attrs=attrs)
    ends = profile_intervals(bare)
    is_open = {f"open_{side}": ~ends[side].isin(["data", "prior"]).to_numpy() for side in ("below", "above")}
    read = {name: ends[name].to_numpy() for name in ("lower", "upper")}
    words = {side: ends[side].to_numpy().astype(str) for side in ("below", "above")}
    return profile_data(table, measured, profiles, intervals=walls | read | words | is_open, attrs=attrs)


def _check(problem: Problem, names: Sequence[str], num_points: int, drop: float) -> None:
    unknown = sorted(set(names) - set(problem.parameter_names))
    if unknown or not names:
        raise ValueError(f"unknown parameters {unknown}; choose from {list(problem.parameter_names)}")
    if num_points < 2:
        raise ValueError(f"num_points is {num_points}; a side takes at least 2")
    least = chi_square_drop(0.95)
    if drop < least:
        raise ValueError(
            f"drop is {drop}; the ends of a 95 % interval lie {least:.4g} below the mode, so it must be more"
        )


# ---- walking


def _begun(
    problem: Problem,
    position: Float[np.ndarray, " dim"],
    log_density: float,
    indices: Sequence[int],
    aim: float,
    rng: np.random.Generator,
) -> list[_Walk]:
    """Return walks at the mode, whose first steps are those that a normal posterior would need."""
    width = prior_width(problem, rng)
    optimum = laplace(problem, inside(problem, position[None])[0], log_density, width)
    covariance = optimum.factor @ optimum.factor.T
    longest = _longest(problem)
    walks = []
    for k in indices:
        variance = covariance[k, k]
        sd = math.sqrt(variance) if variance > 0 else abs(optimum.decay[k])
        step = min(aim * sd, longest[k])
        slope = covariance[:, k] / variance if variance > 0 else np.zeros(len(position))
        walks += [_Walk(k, sign, step, step, slope, [position], [log_density], [True]) for sign in (-1, 1)]
    return walks


def _longest(problem: Problem) -> Float[np.ndarray, " dim"]:
    return _LONGEST * np.asarray(problem.upper - problem.lower)


def _next(walk: _Walk, lower: np.ndarray, upper: np.ndarray) -> float:
    """Return the value of the parameter that is tried next."""
    k = walk.parameter
    return float(np.clip(walk.points[-1][k] + walk.sign * walk.step, lower[k], upper[k]))


def _optima(
    problem: Problem, walks: Sequence[_Walk], lower: np.ndarray, upper: np.ndarray, seed: int
) -> tuple[list[tuple[np.ndarray, float, bool]], int]:
    """Return the optimum at the next value of every walk, its log density and whether it converged; and the cost.

    The shapes are those of all walks, so that nothing is compiled again: those that have stopped stay where they are.
    """
    last = np.stack([walk.points[-1] for walk in walks])
    is_active = np.array([not walk.stopped for walk in walks])
    stays, follows = last.copy(), last.copy()
    lows, highs = np.where(is_active[:, None], lower, last), np.where(is_active[:, None], upper, last)
    for w in np.flatnonzero(is_active):
        k, value = walks[w].parameter, _next(walks[w], lower, upper)
        follows[w] = np.clip(last[w] + (value - last[w, k]) * walks[w].slope, lower, upper)
        stays[w, k] = follows[w, k] = lows[w, k] = highs[w, k] = value
    tried = problem.evaluate(np.concatenate([stays, follows]))
    values = np.nan_to_num(tried.log_likelihood + tried.log_prior, nan=-np.inf).reshape(2, -1)
    starts = np.where((values[1] > values[0])[:, None], follows, stays)
    run = search(
        problem,
        OPTIMIZERS["multistart"],
        (("loss_tolerance", _LOSS_TOLERANCE),),
        initial=starts[:, None],
        bounds=Bounds(lows, highs),
        max_evaluations=_EACH * len(walks),
        seed=seed,
    )
    if run.stopped == "interrupted":
        raise KeyboardInterrupt
    found = zip(np.asarray(run.position), -np.asarray(run.loss), np.asarray(run.converged), strict=True)
    return [(u, float(v), bool(c)) for u, v, c in found], run.evaluations + 2 * len(walks)


def _advance(
    walk: _Walk,
    point: Float[np.ndarray, " dim"],
    log_density: float,
    is_converged: bool,
    highest: float,
    aim: float,
    lower: np.ndarray,
    upper: np.ndarray,
) -> None:
    """Take a step, or take it back if it went too far down, and choose the length of the next."""
    before, after = (math.sqrt(2 * max(highest - value, 0.0)) for value in (walk.log_density[-1], log_density))
    growth = abs(after - before)
    is_short = walk.step <= _SHORTEST * walk.first_step
    if not math.isfinite(log_density) or (growth > _OVERSHOT * aim and not is_short):
        if is_short:
            walk.stopped = "failed"
        walk.step /= 2 if math.isfinite(log_density) else 4
        return
    k, last = walk.parameter, walk.points[-1]
    walk.slope = (point - last) / (point[k] - last[k])
    walk.points.append(point)
    walk.log_density.append(log_density)
    walk.converged.append(is_converged)
    walk.step = min(walk.step * float(np.clip(aim / max(growth, aim / 2), 0.5, 2.0)), _LONGEST * (upper[k] - lower[k]))
    _look_for_wall(walk, lower, upper)


def _look_for_wall(walk: _Walk, lower: np.ndarray, upper: np.ndarray) -> None:
    k = walk.parameter
    if _next(walk, lower, upper) == walk.points[-1][k]:
        walk.stopped = "wall"


# ---- results


def _profiles(problem: Problem, names: Sequence[str], walks: Sequence[_Walk], num_points: int) -> Profiles:
    """Put the two walks of every parameter together."""
    pairs = list(zip(walks[::2], walks[1::2], strict=True))
    shape = (len(pairs), 2 * num_points + 1)
    position, log_density = np.full((*shape, problem.dim), np.nan), np.full(shape, np.nan)
    converged = np.zeros(shape, dtype=bool)
    for row, (below, above) in enumerate(pairs):
        length = len(below.points) + len(above.points) - 1
        position[row, :length] = [*below.points[:0:-1], *above.points]
        log_density[row, :length] = [*below.log_density[:0:-1], *above.log_density]
        converged[row, :length] = [*below.converged[:0:-1], *above.converged]
    log_prior = np.asarray(problem.batched.log_prior(position.reshape(-1, problem.dim))).reshape(shape)
    indices = [problem.parameter_names.index(name) for name in names]
    values = natural(position, problem.scale)
    used = int(np.isfinite(log_density).sum(axis=1).max())
    return Profiles(
        tuple(names),
        tuple(problem.scale[k] for k in indices),
        tuple(problem.estimated[k].unit for k in indices),
        np.stack([values[row, :used, k] for row, k in enumerate(indices)]),
        log_density[:, :used],
        np.where(np.isfinite(log_density), log_prior, np.nan)[:, :used],
        converged[:, :used],
        values[:, :used],
        np.array([[below.stopped or "points", above.stopped or "points"] for below, above in pairs]),
    )


def _better(problem: Problem, profiles: Profiles, at_mode: float) -> dict[str, object] | None:
    """Return what is known of a point that is better than the mode, if there is one."""
    row, point = np.unravel_index(np.nanargmax(profiles.log_density), profiles.log_density.shape)
    log_density = float(profiles.log_density[row, point])
    if log_density <= at_mode + BETTER:
        return None
    estimates = dict(zip(problem.parameter_names, profiles.position[row, point].tolist(), strict=True))
    return {"log_density": log_density, "on_profile_of": profiles.names[row], "estimates": estimates}

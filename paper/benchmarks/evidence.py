"""Check the log evidence of parallel tempering, and its error, against quadrature, many times on three posteriors.

conversion_reaction   A linear model with normal priors: the evidence is a normal density.
flip_flop             A -> B -> C of which C is measured: the two rates can be told apart only by name, so there are two
                      modes alike, far from each other.
explosion             S' = a S², which has no solution to the end for 90 % of the prior: they count as likelihood zero.

The likelihood of the last two is known in closed form and integrated over a grid. In a fair estimate 68 and 95 of 100
repetitions lie within one and two of the errors that they report.

python paper/benchmarks/evidence.py
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import arviz
import numpy as np
import pandas as pd
from collection import arguments
from rounds import tell
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm

import kinbayes as kb
from kinbayes.model.expressions import const, symbol
from kinbayes.results.evidence import log_evidence
from kinbayes.results.tempering import round_trips, swap_rates
from kinbayes.run.choice import target
from kinbayes.run.loop.driver import run_sampler
from kinbayes.run.starts.chain_starts import chain_starts
from kinbayes.samplers import SAMPLERS

CELLS = 1600  # of the grid, along each parameter
GRID_ERROR = 1e-3  # of a log evidence, by half as many cells


class Case(NamedTuple):
    """A problem and its log evidence."""

    problem: kb.Problem
    truth: float


# ---- conversion reaction


def conversion_reaction() -> Case:
    """Return the example whose posterior is normal; its README has the solution."""
    problem = kb.read_petab(kb.example("conversion_reaction"), rtol=1e-8, atol=1e-10)
    forward, backward, sd = 0.3, 0.1, 0.5
    mean, prior_sd = np.array([8.0, 3.0]), 4.0
    rate, rows = forward + backward, []
    for measured in problem.measurements:
        left = np.exp(-rate * measured.time)
        of_a = np.array([backward + forward * left, backward * (1 - left)]) / rate
        rows.append(of_a if measured.observable == "A_measured" else 1 - of_a)
    X, y = np.array(rows), np.array([m.value for m in problem.measurements])
    covariance = prior_sd**2 * X @ X.T + sd**2 * np.eye(len(y))
    return Case(problem, float(multivariate_normal(X @ mean, covariance).logpdf(y)))


# ---- flip-flop


def flip_flop() -> Case:
    """Return a chain of two reactions whose rates, between 0.01 and 100, may change places."""
    times, sd, bounds = np.array([0.25, 0.5, 1, 2, 3, 5, 8, 12.0]), 0.03, (1e-2, 1e2)
    measured = products(times, 2.0, 0.3) + sd * np.random.default_rng(0).normal(size=len(times))
    first, second = symbol("k1") * symbol("A"), symbol("k2") * symbol("B")
    start = {"A": const(1.0), "B": const(0.0), "C": const(0.0), "k1": const(2.0), "k2": const(0.3)}
    model = kb.Model("flip_flop", {"A": -first, "B": first - second, "C": second}, start)
    parameters = [kb.Parameter(name, kb.LogUniform(*bounds), nominal=1.0) for name in ("k1", "k2")]
    observable = kb.Observable("product", "C", kb.noise.normal(str(sd)))
    problem = kb.Problem(model, parameters, [observable], table("product", times, measured), rtol=1e-8, atol=1e-10)

    def log_likelihood(u: np.ndarray) -> np.ndarray:
        k1, k2 = 10.0 ** u[..., None, 0], 10.0 ** u[..., None, 1]
        return norm(products(times, k1, k2), sd).logpdf(measured).sum(axis=-1)

    return Case(checked(problem, log_likelihood), by_quadrature(log_likelihood, np.log10([bounds, bounds])))


def products(times: np.ndarray, k1: np.ndarray | float, k2: np.ndarray | float) -> np.ndarray:
    """Return C of the chain A -> B -> C that starts with A = 1, also where the rates are alike."""
    slow, fast = np.minimum(k1, k2), np.maximum(k1, k2)
    gap = np.maximum(fast - slow, 1e-12)
    return 1.0 - np.exp(-slow * times) * (1.0 - slow * np.expm1(-gap * times) / gap)


# ---- explosion


def explosion() -> Case:
    """Return growth that is over before the last measurement unless a < 1, with a between 0 and 10."""
    times, highest, sds = np.array([0.25, 0.5, 0.75, 1.0]), 10.0, (0.05, 1.0)
    measured = np.exp(0.2 * np.random.default_rng(1).normal(size=len(times))) / (1 - 0.6 * times)
    growth = symbol("a") * symbol("S") * symbol("S")
    model = kb.Model("explosion", {"S": growth}, {"S": const(1.0), "a": const(0.5)})
    parameters = [
        kb.Parameter("a", kb.Uniform(0.0, highest), nominal=0.5),
        kb.Parameter("sd", kb.LogUniform(*sds), nominal=0.2),
    ]
    observable = kb.Observable("size", "S", kb.noise.log_normal("sd"))
    problem = kb.Problem(model, parameters, [observable], table("size", times, measured), rtol=1e-8, atol=1e-10)

    def log_likelihood(u: np.ndarray) -> np.ndarray:
        left = 1 - u[..., None, 0] * times
        is_finite = np.all(left > 0, axis=-1)
        error = np.log(measured) + np.log(np.where(left > 0, left, 1.0))
        values = norm(0.0, 10.0 ** u[..., None, 1]).logpdf(error).sum(axis=-1) - np.log(measured).sum()
        return np.where(is_finite, values, -np.inf)

    box = np.array([[0.0, 1.0], np.log10(sds)])  # beyond a = 1 there is nothing to add up
    return Case(checked(problem, log_likelihood), by_quadrature(log_likelihood, box) - float(np.log(highest)))


# ---- what they share


def table(observable: str, times: np.ndarray, measured: np.ndarray) -> pd.DataFrame:
    """Return measurements as PEtab has them."""
    return pd.DataFrame({"observableId": observable, "time": times, "measurement": measured})


def checked(problem: kb.Problem, log_likelihood: Callable[[np.ndarray], np.ndarray]) -> kb.Problem:
    """Return a problem whose log likelihood is the closed form, at draws of the prior."""
    points = problem.draw_prior(np.random.default_rng(0), 200)
    found, expected = problem.evaluate(points).log_likelihood, log_likelihood(points)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    print(f"{problem.name}: {np.isneginf(found).mean():.0%} of {len(points)} draws of the prior cannot be simulated")
    return problem


def by_quadrature(log_likelihood: Callable[[np.ndarray], np.ndarray], box: np.ndarray) -> float:
    """Return the log of the likelihood's mean over a box, by the midpoint rule.

    Raises
    ------
    ValueError
        If half as many cells along each side give another number.
    """
    fine, coarse = (_midpoint(log_likelihood, box, cells) for cells in (CELLS, CELLS // 2))
    if abs(fine - coarse) > GRID_ERROR:
        raise ValueError(f"the grid is too coarse: log evidence {fine} with {CELLS} cells, {coarse} with half of them")
    return fine


def _midpoint(log_likelihood: Callable[[np.ndarray], np.ndarray], box: np.ndarray, cells: int) -> float:
    sides = [low + (high - low) * (np.arange(cells) + 0.5) / cells for low, high in box]
    rows = [log_likelihood(np.stack(np.broadcast_arrays(value, sides[1]), axis=-1)) for value in sides[0]]
    return float(logsumexp(rows) - 2 * np.log(cells))


def row_of(
    name: str, case: Case, *, chains: int, num_warmup: int, num_draws: int, thin: int, repetitions: int
) -> dict[str, object]:
    """Repeat parallel tempering, and return how its estimates and their errors compare to the truth."""
    density = target(case.problem)
    lengths = {"num_warmup": num_warmup, "num_draws": num_draws, "thin": thin}

    def repeated(seed: int) -> arviz.InferenceData:
        starts, _ = chain_starts(case.problem, "prior", chains, np.random.default_rng(seed))
        run = run_sampler(density, SAMPLERS["parallel_tempering"], (), initial=starts, seed=seed, **lengths)
        return arviz.from_dict(sample_stats=run.info)

    repeated(repetitions)  # compiles, and is not counted
    found, rates, trips, began = [], [], [], time.perf_counter()
    for idata in map(repeated, range(repetitions)):
        found.append(log_evidence(idata))
        rates.append(swap_rates(idata).min())
        trips.append(round_trips(idata).sum())
    seconds = (time.perf_counter() - began) / repetitions
    value, error = (np.array(column) for column in zip(*found, strict=True))
    off = np.abs(value - case.truth)
    row = {
        "target": name,
        "parameters": case.problem.dim,
        "chains": chains,
        "rungs": idata.sample_stats["beta"].shape[-1],
        "warmup": num_warmup,
        "draws": num_draws,
        "thin": thin,
        "truth": case.truth,
        "mean": value.mean(),
        "sd": value.std(ddof=1),
        "mean_error": error.mean(),
        "bias_in_errors_of_the_mean": (value.mean() - case.truth) / (value.std(ddof=1) / np.sqrt(repetitions)),
        "within_1_error": int(np.count_nonzero(off <= error)),
        "within_2_errors": int(np.count_nonzero(off <= 2 * error)),
        "of": repetitions,
        "min_swap_rate": np.mean(rates),
        "round_trips": np.mean(trips),
        "seconds": seconds,  # of one repetition
    }
    tell(row)
    return row


CASES = {"conversion_reaction": conversion_reaction, "flip_flop": flip_flop, "explosion": explosion}


def main() -> None:
    """Repeat, and write the table."""
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--warmup", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--thin", type=int, default=1)
    given = parser.parse_args()
    share = 10 if given.quick else 1
    lengths = {"num_warmup": given.warmup // share, "num_draws": given.draws // share, "thin": given.thin}
    repetitions = 5 if given.quick else given.repetitions
    rows = [row_of(name, CASES[name](), chains=given.chains, repetitions=repetitions, **lengths) for name in given.only]
    path = given.out / "evidence.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False, float_format="%.6g")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()

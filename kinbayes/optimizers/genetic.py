"""A genetic algorithm: good points are crossed, and what comes of it mutates.

References
----------
K. Deb, A. Pratap, S. Agarwal, T. Meyarivan (2002), A fast and elitist multiobjective genetic algorithm: NSGA-II, IEEE
Transactions on Evolutionary Computation 6:182, doi:10.1109/4235.996017.
"""

import numpy as np
import optuna
from jaxtyping import Int
from optuna.samplers import NSGAIISampler, nsgaii

from kinbayes.optimizers.base import Bounds, Optimizer
from kinbayes.optimizers.trials import Proposal, State, box, free, optimizer, proposed, quiet

CROSSOVERS = {
    "blx_alpha": nsgaii.BLXAlphaCrossover,
    "sbx": nsgaii.SBXCrossover,
    "spx": nsgaii.SPXCrossover,
    "undx": nsgaii.UNDXCrossover,
    "uniform": nsgaii.UniformCrossover,
    "vsbx": nsgaii.VSBXCrossover,
}


def genetic(
    bounds: Bounds,
    *,
    population_size: int = 40,
    crossover: str = "blx_alpha",
    crossover_probability: float = 0.9,
    mutation_probability: float | None = None,
    max_trials: int = 5000,
) -> Optimizer:
    """Build Optuna's NSGA-II, with one loss.

    The points that it begins at are its first generation. Parents of a generation are the best points so far, as many
    as the population has: with one loss that is what non-dominated sorting of parents and children together selects.
    Points where the objective failed have no children; while there are no two others, points are drawn at random.

    Optuna needs a box: on an open side this is that of the first generation, widened by its own width. The search
    does not converge, but ends when `max_trials` are used up.

    Parameters
    ----------
    bounds
        Walls of the search.
    population_size
        Points of a generation, which are evaluated together.
    crossover
        How parents are crossed, a key of `CROSSOVERS`. Blending (``blx_alpha``) came closest to the optimum on three of
        four test functions; ``uniform`` only ever combines coordinates that are there.
    crossover_probability
        Probability that a child has several parents and is not a copy of one; Optuna's.
    mutation_probability
        Probability that a parameter of a child is drawn anew, anywhere in the box; by default one of all the free
        parameters is, on average.
    max_trials
        Largest number of evaluations of a start.

    Raises
    ------
    ValueError
        If a setting is out of its range.
    """
    if crossover not in CROSSOVERS:
        raise ValueError(f"unknown crossover {crossover!r}; choose from {sorted(CROSSOVERS)}")
    with quiet():
        operator = CROSSOVERS[crossover]()
    if population_size < operator.n_parents:
        raise ValueError(f"population_size is {population_size}; {crossover} needs {operator.n_parents} parents")
    for name, value in (("crossover", crossover_probability), ("mutation", mutation_probability)):
        if value is not None and not 0.0 <= value <= 1.0:
            raise ValueError(f"{name}_probability is {value}, which must lie in [0, 1]")

    def propose(state: State, seed: int) -> Proposal:
        walls = box(bounds, state.positions[:population_size])
        space = free(walls)
        columns = [int(name) for name in space]
        parents = _parents(state, population_size)
        if len(parents) < operator.n_parents:
            parents = parents[:0]
        with quiet():
            sampler = NSGAIISampler(
                # The parents alone are a study's first generation, and its second the round.
                population_size=len(parents) or population_size,
                crossover=operator,
                crossover_prob=crossover_probability,
                mutation_prob=mutation_probability,
                seed=seed,
            )
            study = optuna.create_study(sampler=sampler)
            for k in parents:
                study.enqueue_trial(dict(zip(space, state.positions[k, columns].tolist(), strict=True)))
                trial = study.ask(space)
                _ = trial.relative_params  # has the trial counted: one whose values are all given is in no generation
                study.tell(trial, float(state.losses[k]))
            return proposed(study, space, walls, population_size)

    return optimizer(bounds, batch_size=population_size, max_trials=max_trials, propose=propose)


def _parents(state: State, population_size: int) -> Int[np.ndarray, " k"]:
    """Return which trials are the best, in the order in which they were made."""
    losses = state.losses[: int(state.num_trials)]
    best = losses.argsort(kind="stable")[:population_size]
    return np.sort(best[losses[best] < np.inf])

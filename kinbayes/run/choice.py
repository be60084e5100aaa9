"""Which sampler a run takes: the name, its settings, how many steps a draw, and what runs it."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from jax.tree_util import Partial

from kinbayes.problem.parameters import Box, constrain, unconstrain
from kinbayes.problem.problem import Problem
from kinbayes.run.ladder import NUM_PILOT, RUNGS, ProposalSource
from kinbayes.run.loop.driver import run_sampler
from kinbayes.run.loop.pieces import Settings
from kinbayes.run.loop.runs import SamplerRun
from kinbayes.run.settings import checked_settings
from kinbayes.run.weighted import run_weighted
from kinbayes.samplers import SAMPLERS
from kinbayes.samplers.amortized import num_local_steps
from kinbayes.samplers.base import Target
from kinbayes.samplers.nutpie import start_chain

BACKENDS = ("nutpie", "numpyro")  # of nuts
# Of an iteration. A Metropolis sampler takes some 3 steps per parameter for one effective draw of a normal posterior,
# and a ladder's steps cost as many as it has rungs.
STEPS_PER_PARAMETER, LADDER_STEPS_PER_PARAMETER = 5, 1
LOCAL = ("adaptive_metropolis", "dream", "random_walk")  # whose state is a position with its densities
REFRESHES_PER_DRAW = 4  # steps of a learned proposal's candidates and local moves
MIN_PILOT = 100  # draws, of which the largest weights have a tail
FEW_PARAMETERS = 25  # a little more than were measured
_FIXED = ("target", "start", "num_warmup", "num_draws", "seed")  # arguments of samplers that are no settings


class Choice(NamedTuple):
    """What is to run.

    Attributes
    ----------
    name
        The sampler's name in `SAMPLERS`.
    settings
        All its settings by name, defaults included, as a result records them.
    thin
        Number of steps of an iteration, of which the last gives its draw.
    run
        Runs it, once it is told where to start and how long to run.
    """

    name: str
    settings: dict[str, object]
    thin: int
    run: Callable[..., SamplerRun]


def chosen(
    problem: Problem,
    sampler: str,
    settings: Mapping[str, object],
    thin: int | None,
    proposal: ProposalSource | None = None,
    rung: str = "i-SIR",
) -> Choice:
    """Return what is to run.

    Parameters
    ----------
    problem
        The problem.
    sampler
        The sampler's name in `SAMPLERS`.
    settings
        Its settings, by name.
    thin
        Number of steps of an iteration; None for the sampler's own.
    proposal, rung
        For `amortized`, what it draws from, and on which of `RUNGS`.

    Raises
    ------
    ValueError
        If a name or a setting is unknown, `thin` is not what the sampler can do, or a proposal is missing, of other
        parameters, or given to a sampler that has no use for it.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler {sampler!r}; choose from {['auto', *sorted(SAMPLERS)]}")
    if thin is not None and thin < 1:
        raise ValueError(f"thin is {thin}; it must be at least 1")
    if sampler == "amortized":
        return _amortized(problem, dict(settings), thin, proposal, rung)
    if proposal is not None:
        raise ValueError(
            f"sampler {sampler!r} has no use for a proposal; choose 'amortized', or leave the proposal out"
        )
    if sampler == "nuts":
        return _nuts(problem, dict(settings), thin)
    if sampler == "parallel_tempering":
        return _tempering(problem, dict(settings), thin)
    pairs = checked_settings(sampler, SAMPLERS[sampler], settings, fixed=_FIXED)
    return _in_driver(problem, sampler, pairs, dict(pairs), thin or STEPS_PER_PARAMETER * problem.dim)


def automatic(dim: int, num_optima: int) -> tuple[str, str]:
    """Return the sampler that `auto` stands for, and why.

    Tempering where a search for starts has found several optima that matter. Else DREAM, which
    lost least to the best sampler of each, on average over the published posteriors of `paper/results/samplers.csv` on
    which any of them mixed (9 to 15 parameters; of those with 19 to 22 none did). For more than `FEW_PARAMETERS` there
    are no figures: the No-U-Turn sampler, whose steps lose less by dimension.

    Parameters
    ----------
    dim
        Number of estimated parameters.
    num_optima
        Number of optima that matter among those that a search has found; 0 if nothing was searched.
    """
    if num_optima > 1:
        return "parallel_tempering", f"{num_optima} optima matter, between which only tempering goes to and fro"
    known = f"no second optimum is known, and {dim} parameters are"
    if dim <= FEW_PARAMETERS:
        return "dream", f"{known} few: steps without gradients are worth more"
    return "nuts", f"{known} many: gradients pay"


def target(problem: Problem) -> Target:
    """Return all that a sampler may know of a problem."""
    box = Box(problem.lower, problem.upper)
    batched = problem.batched
    return Target(
        batched.log_prior,
        batched.log_likelihood,
        batched.value_and_grad,
        problem.lower,
        problem.upper,
        Partial(constrain, box),
        Partial(unconstrain, box),
    )


def _in_driver(problem: Problem, name: str, pairs: Settings, record: dict[str, object], thin: int) -> Choice:
    return Choice(name, record, thin, partial(run_sampler, target(problem), SAMPLERS[name], pairs, thin=thin))


def _nuts(problem: Problem, given: dict[str, object], thin: int | None) -> Choice:
    """Choose the backend as well, which is the first of the settings."""
    is_native = problem.engine == "native" and not problem.is_grouped
    backend = given.pop("backend", "nutpie" if is_native else "numpyro")
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r} of 'nuts'; choose from {list(BACKENDS)}")
    if backend == "nutpie" and problem.is_grouped:
        raise ValueError(
            "nutpie calls the native kernel, outside which constraints that hold always, once or between two times are "
            "decided: use 'numpyro'"
        )
    if backend == "nutpie" and not is_native:
        raise ValueError(f"nutpie calls the native engine, and this problem's is {problem.engine!r}: use 'numpyro'")
    if backend == "nutpie" and thin not in (None, 1):
        raise ValueError(f"thin is {thin}, but nutpie keeps every draw; leave thin out, or choose backend 'numpyro'")
    factory = start_chain if backend == "nutpie" else SAMPLERS["nuts"]
    pairs = checked_settings("nuts", factory, given, fixed=_FIXED)
    record = {"backend": backend, **dict(pairs)}
    if backend == "numpyro":
        return _in_driver(problem, "nuts", pairs, record, thin or 1)
    from kinbayes.problem.native_posterior import native_posterior  # numba, which takes a while to load
    from kinbayes.run.loop.background import run_chains

    posterior = native_posterior(problem.estimated, problem.gradient_numbers)
    return Choice("nuts", record, 1, partial(run_chains, posterior, pairs))


def _tempering(problem: Problem, given: dict[str, object], thin: int | None) -> Choice:
    """Choose the sampler on the rungs by its name as well, and check its settings."""
    name, factory = "parallel_tempering", SAMPLERS["parallel_tempering"]
    allowed = sorted(set(SAMPLERS) - {name, "amortized"})
    inner, own = given.pop("inner", "adaptive_metropolis"), given.pop("inner_settings", {})
    if inner not in allowed:
        raise ValueError(f"unknown inner sampler {inner!r} of {name!r}; choose from {allowed}")
    if not isinstance(own, Mapping):
        raise ValueError(f"inner_settings is {own!r}; give a mapping of names to values")
    inner_pairs = checked_settings(inner, SAMPLERS[inner], own, fixed=_FIXED)
    pairs = dict(checked_settings(name, factory, given, fixed=_FIXED))
    record = pairs | {"inner": inner, "inner_settings": dict(inner_pairs)}
    pairs |= {"inner": SAMPLERS[inner], "inner_settings": inner_pairs}
    steps = 1 if inner == "nuts" else LADDER_STEPS_PER_PARAMETER * problem.dim
    return _in_driver(problem, name, tuple(pairs.items()), record, thin or steps)


def _amortized(
    problem: Problem, given: dict[str, object], thin: int | None, proposal: ProposalSource | None, rung: str
) -> Choice:
    """Choose what runs on a rung, and check the settings of the local sampler and of the ladder as well."""
    name = "amortized"
    _refuse_proposal(problem, proposal)
    asked, num_pilot = given.pop("rung", "auto"), given.pop("num_pilot", NUM_PILOT)
    if asked not in ("auto", *RUNGS):
        raise ValueError(f"unknown rung {asked!r} of {name!r}; choose from {['auto', *RUNGS]}")
    if isinstance(num_pilot, bool) or not isinstance(num_pilot, int) or num_pilot < MIN_PILOT:
        raise ValueError(
            f"setting 'num_pilot' of {name!r} is {num_pilot!r}; it must be a whole number from {MIN_PILOT}"
        )
    local, own = given.pop("local", "adaptive_metropolis"), given.pop("local_settings", {})
    if local not in LOCAL:
        raise ValueError(f"unknown local sampler {local!r} of {name!r}; choose from {list(LOCAL)}")
    if not isinstance(own, Mapping):
        raise ValueError(f"local_settings is {own!r}; give a mapping of names to values")
    local_pairs = checked_settings(local, SAMPLERS[local], own, fixed=_FIXED)
    pairs = dict(checked_settings(name, SAMPLERS[name], given, fixed=_FIXED))
    record = {"rung": asked, "num_pilot": num_pilot} | pairs | {"local": local, "local_settings": dict(local_pairs)}
    thin = thin or REFRESHES_PER_DRAW
    if rung == "importance":
        return Choice(name, record, 1, run_weighted)
    if rung == "local":
        thin *= max(num_local_steps(pairs["local_steps"], problem.dim), 1)
        run = partial(run_sampler, target(problem), SAMPLERS[local], local_pairs, thin=thin)
        return Choice(name, record, thin, run)
    pairs |= {"local": SAMPLERS[local], "local_settings": local_pairs}
    own_target = target(problem)._replace(proposal=proposal.for_sampler())
    return Choice(name, record, thin, partial(run_sampler, own_target, SAMPLERS[name], tuple(pairs.items()), thin=thin))


def _refuse_proposal(problem: Problem, proposal: ProposalSource | None) -> None:
    """Refuse no proposal, and one of other parameters."""
    if proposal is None:
        raise ValueError(
            "the sampler 'amortized' draws from a learned proposal; give it as proposal=, or choose another sampler"
        )
    theirs, ours = list(proposal.parameter_names), list(problem.parameter_names)
    if theirs != ours:
        raise ValueError(
            f"the proposal is of the parameters {theirs}, and the problem estimates {ours}: the same names in the same "
            "order are needed; learn a proposal on this problem"
        )

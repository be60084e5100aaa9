"""The samplers as step methods of PyMC, for `pm.sample(step=Dream())`.

They take any model, all of its continuous variables or some of them, alone or next to PyMC's own steppers:

    with model:
        pm.sample(step=[Dream([a, b]), pm.BinaryGibbsMetropolis([z])], cores=1)

PyMC runs every chain by itself, so a step method is one chain: DREAM has an archive of one chain's past, tempering one
ladder. All move in PyMC's transformed space, and tune until PyMC's tuning ends. What other steppers change between two
draws are arguments of what is compiled: nothing is compiled again.

JAX may hang in a forked process, and to fork is how PyMC starts chains on Linux. So chains have to run in this process
(``cores=1``) or in fresh ones (``mp_ctx="spawn"``); in a forked one the first step raises.
"""

import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pymc as pm
from jaxtyping import Float
from pymc.blocking import DictToArrayBijection, PointType, RaveledVars, StatsType
from pymc.step_methods.arraystep import BlockedStep
from pymc.step_methods.compound import Competence, StepMethodState
from pymc.step_methods.state import dataclass_state
from pymc.util import RandomGenerator, get_random_generator, get_value_vars_from_user_vars
from pytensor.graph.basic import Variable
from rich.progress import ProgressColumn, TextColumn
from rich.table import Column

from kinbayes.hosts.pymc_chain import ChainState, KernelBuilder, Program, program
from kinbayes.hosts.pymc_kernels import Settings, conditional_ladder_kernel, ladder_kernel, metropolis_kernel
from kinbayes.samplers.adaptive_metropolis import adaptive_metropolis
from kinbayes.samplers.base import SamplerFactory
from kinbayes.samplers.dream import dream
from kinbayes.samplers.random_walk import random_walk

Variables = Variable | Sequence[Variable] | None

# Of a draw, as in `kinbayes.sample`: a Metropolis sampler takes some 3 steps per parameter for one effective draw of a
# normal posterior, and a ladder's steps cost as many as it has rungs.
STEPS_PER_PARAMETER, LADDER_STEPS_PER_PARAMETER = 5, 1


@dataclass_state
class StepState(StepMethodState):
    """Hold what PyMC saves of a step method and resets before each chain."""

    tune: bool
    chain: ChainState | None


class _Step(BlockedStep):
    """Move some variables of a model by a sampler; what differs between samplers are two kernels.

    One is for a density that depends on no other variable, one for a density that does.
    """

    _state_class = StepState
    stats_dtypes_shapes = {  # noqa: RUF012 - PyMC's form
        "acceptance_rate": (np.float64, []),
        "n_steps": (np.int64, []),
        "step_size": (np.float64, []),
        "tune": (bool, []),
    }

    def __init__(
        self,
        vars: Variables,
        alone: KernelBuilder,
        beside_others: KernelBuilder,
        *,
        model: pm.Model | None,
        rng: RandomGenerator,
        steps: int | None,
        steps_per_parameter: int = STEPS_PER_PARAMETER,
        num_warmup: int = 0,
    ):
        _refuse_fork()
        for setting, value, least in (("steps", steps, 1), ("num_warmup", num_warmup, 0)):
            if value is not None and value < least:
                raise ValueError(f"{setting} is {value}; it must be at least {least}")
        self.model = pm.modelcontext(model)
        self.vars = _continuous(vars, self.model, type(self).__name__)
        self.rng = get_random_generator(rng)
        self.tune = True
        self.chain: ChainState | None = None
        told = tuple(name for name in self.stats_dtypes_shapes if name != "tune")
        self._make_program = partial(
            program,
            self.model,
            self.vars,
            kernels=(alone, beside_others),
            told=told,
            num_warmup=num_warmup,
            steps=steps,
            steps_per_parameter=steps_per_parameter,
        )
        self._program: Program | None = None

    @staticmethod
    def competence(var: Variable, has_grad: bool) -> Competence:
        return Competence.COMPATIBLE if var.dtype == "float64" else Competence.INCOMPATIBLE

    @staticmethod
    def _progressbar_config(n_chains: int = 1) -> tuple[list[ProgressColumn], dict[str, list[float]]]:
        column = TextColumn("{task.fields[acceptance_rate]:0.2f}", table_column=Column("Acceptance", ratio=1))
        return [column], {"acceptance_rate": [0.0] * n_chains}

    @staticmethod
    def _make_progressbar_update_functions() -> tuple[Callable[[Mapping], Mapping]]:
        return (lambda stats: {"acceptance_rate": stats["acceptance_rate"]},)

    def set_rng(self, rng: RandomGenerator) -> None:
        # PyMC gives a chain its random numbers before its first step: nothing is left of a chain before.
        super().set_rng(rng)
        self.chain, self.tune = None, True

    def step(self, point: PointType) -> tuple[PointType, StatsType]:
        _refuse_fork()
        if self._program is None:
            self._program = self._make_program(point)
        density, start, advance, num_steps = self._program
        raveled = DictToArrayBijection.map({v.name: point[v.name] for v in self.vars})
        position, dim = raveled.data, raveled.data.size
        others = tuple(point[name] for name in density.others)
        data = tuple(v.get_value(borrow=True) for v in density.data)
        # PyMC may write later values into the same memory, so these are copies.
        is_fixed = self.chain is not None and not self.tune
        reference = self.chain.reference if is_fixed else tuple(map(np.array, others))
        given = (others, reference, data)
        if self.chain is None:
            seed = int(self.rng.integers(2**63))
            self.chain = ChainState(seed, 0, np.asarray(start(*given, seed, position)), reference)
        seed, first, memory, _ = self.chain
        last = first + num_steps
        is_stale = bool(others) or not np.array_equal(memory[:dim], position)
        memory, told = map(np.asarray, advance(*given, seed, memory, position, is_stale, self.tune, first, last))
        self.chain = ChainState(seed, last, memory, reference)
        moved = RaveledVars(memory[:dim], raveled.point_map_info)
        return DictToArrayBijection.rmap(moved, start_point=point), [self._by_name(told)]

    def _by_name(self, told: Float[np.ndarray, " values"]) -> dict[str, np.generic | np.ndarray]:
        stats, end = {"tune": self.tune}, 0
        for name, (dtype, shape) in self.stats_dtypes_shapes.items():
            if name not in stats:
                begin, end = end, end + math.prod(shape)
                stats[name] = told[begin:end].reshape(shape).astype(dtype)[()]
        return stats

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_program": None}


def _continuous(given: Variables, model: pm.Model, name: str) -> list[Variable]:
    """Return the value variables of those given, of all continuous ones where none are.

    Raises
    ------
    ValueError
        If one is not continuous, or none is there.
    """
    if given is not None:
        found = get_value_vars_from_user_vars(given, model)
    else:
        found = [v for v in model.value_vars if v.dtype not in pm.discrete_types]
    if not found:
        raise ValueError(f"the model has no continuous variables, and {name} moves no others")
    for v in found:
        if v.dtype != "float64":
            raise ValueError(
                f"{name} moves continuous variables of type float64, and {v.name!r} is {v.dtype}: give {name} the "
                "others, and this one to a stepper of PyMC, such as pm.BinaryGibbsMetropolis, "
                "pm.CategoricalGibbsMetropolis or pm.Metropolis"
            )
    return found


@functools.cache
def _home() -> int:
    """Return the process that asked first."""
    return os.getpid()


def _refuse_fork() -> None:
    if os.getpid() != _home():
        raise RuntimeError(
            "this process was forked from one that has made a step method of kinbayes, and JAX may hang in it; give "
            'pm.sample mp_ctx="spawn", for chains in fresh processes, or cores=1, for all chains in one'
        )


# ---- the step methods


class Metropolis(_Step):
    """Move by independent normal proposals of tuned widths.

    Parameters
    ----------
    vars
        Continuous variables to move; by default all of the model.
    model
        The model; by default the context's.
    rng
        Random numbers; `pm.sample` gives its own.
    steps
        Number of steps of a draw, of which the last gives its point; by default 5 for every parameter.
    step_size, target_acceptance
        As of `kinbayes.samplers.random_walk`.

    Raises
    ------
    ValueError
        If a variable is not continuous, or a number is too small.
    RuntimeError
        In a forked process.
    """

    name = "kinbayes_metropolis"

    def __init__(
        self,
        vars: Variables = None,
        *,
        model: pm.Model | None = None,
        rng: RandomGenerator = None,
        steps: int | None = None,
        step_size: float = 0.2,
        target_acceptance: float | None = None,
    ):
        settings = (("step_size", step_size), ("target_acceptance", target_acceptance))
        kernel = partial(metropolis_kernel, random_walk, settings)
        super().__init__(vars, kernel, kernel, model=model, rng=rng, steps=steps)


class AdaptiveMetropolis(_Step):
    """Move by normal proposals with the covariance of the chain's past.

    Parameters
    ----------
    vars, model, rng, steps
        As of `Metropolis`.
    step_size, target_acceptance, adapt
        As of `kinbayes.samplers.adaptive_metropolis`. If `adapt` is `continuous`, adaptation goes on after PyMC's
        tuning.

    Raises
    ------
    ValueError, RuntimeError
        As `Metropolis`.
    """

    name = "kinbayes_adaptive_metropolis"

    def __init__(
        self,
        vars: Variables = None,
        *,
        model: pm.Model | None = None,
        rng: RandomGenerator = None,
        steps: int | None = None,
        step_size: float = 0.2,
        target_acceptance: float | None = None,
        adapt: str = "warmup",
    ):
        settings = (("step_size", step_size), ("target_acceptance", target_acceptance), ("adapt", adapt))
        kernel = partial(metropolis_kernel, adaptive_metropolis, settings)
        super().__init__(vars, kernel, kernel, model=model, rng=rng, steps=steps)


class Dream(_Step):
    """Move along differences between past positions of the chain: DREAM(ZS).

    Parameters
    ----------
    vars, model, rng, steps
        As of `Metropolis`.
    num_warmup
        PyMC's `tune`, which it does not tell: the archive spans the last third of so many draws. After other numbers
        it spans another part of the tuning, and the draws are as right.
    snooker_probability, mode_jump_probability, target_acceptance
        As of `kinbayes.samplers.dream`.

    Raises
    ------
    ValueError, RuntimeError
        As `Metropolis`.
    """

    name = "kinbayes_dream"

    def __init__(
        self,
        vars: Variables = None,
        *,
        model: pm.Model | None = None,
        rng: RandomGenerator = None,
        steps: int | None = None,
        num_warmup: int = 1000,
        snooker_probability: float = 0.1,
        mode_jump_probability: float = 0.1,
        target_acceptance: float | None = None,
    ):
        settings = (
            ("snooker_probability", snooker_probability),
            ("mode_jump_probability", mode_jump_probability),
            ("target_acceptance", target_acceptance),
        )
        kernel = partial(metropolis_kernel, dream, settings)
        super().__init__(vars, kernel, kernel, model=model, rng=rng, steps=steps, num_warmup=num_warmup)


class ParallelTempering(_Step):
    """Move on a ladder of targets from the prior to the posterior, whose rungs exchange places.

    The prior is that of the variables moved, which has to be proper; observed variables and potentials are tempered.
    Where the density depends on variables that other steppers move, the ladder stands at the values that these had when
    tuning ended, and the draws are those of a walker beside it, which exchanges places with its rungs: exact, however
    far the others go, and the faster the less they change what is moved. `exchange_rate` tells how often it could.

    Without other variables, the statistics tell `kinbayes.log_evidence` the evidence, from each chain by itself, since
    every chain has a ladder of its own: ``log_evidence(idata.sel(chain=[0]))``.

    Parameters
    ----------
    vars, model, rng
        As of `Metropolis`.
    steps
        Number of steps of a draw; by default 1 for every parameter.
    num_warmup
        PyMC's `tune`, which it does not tell: in the first half of so many draws the rungs move. If it is 0 they stay
        where they begin; if PyMC tunes for fewer draws, where they are then.
    rungs, inner, inner_settings
        As of `kinbayes.samplers.parallel_tempering`; `inner` is a sampler without gradients.

    Raises
    ------
    ValueError, RuntimeError
        As `Metropolis`; also if there are fewer than 2 rungs.
    """

    name = "kinbayes_parallel_tempering"

    def __init__(
        self,
        vars: Variables = None,
        *,
        model: pm.Model | None = None,
        rng: RandomGenerator = None,
        steps: int | None = None,
        num_warmup: int = 1000,
        rungs: int = 10,
        inner: SamplerFactory = adaptive_metropolis,
        inner_settings: Settings = (),
    ):
        if rungs < 2:
            raise ValueError(f"rungs is {rungs}; tempering needs 2 at least: the prior and the posterior")
        self.stats_dtypes_shapes = {
            "acceptance_rate": (np.float64, []),
            "n_steps": (np.int64, []),
            "beta": (np.float64, [rungs]),
            "rung_log_likelihood": (np.float64, [rungs]),
            "swap_rate": (np.float64, [rungs - 1]),
            "round_trips": (np.int64, []),
            "exchange_rate": (np.float64, []),
            "tune": (bool, []),
        }
        # PyMC's traces in memory know shapes by NumPy's types alone.
        self.stats_dtypes = [
            {name: np.dtype((dtype, tuple(shape))) for name, (dtype, shape) in self.stats_dtypes_shapes.items()}
        ]
        super().__init__(
            vars,
            partial(ladder_kernel, rungs, inner, inner_settings),
            partial(conditional_ladder_kernel, rungs, inner, inner_settings),
            model=model,
            rng=rng,
            steps=steps,
            steps_per_parameter=LADDER_STEPS_PER_PARAMETER,
            num_warmup=num_warmup,
        )

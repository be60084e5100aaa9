"""The posterior of a kinetic model and its data."""

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float, Int

from kinbayes.model.model import Model
from kinbayes.ode import native
from kinbayes.ode.numbers import Numbers
from kinbayes.ode.tolerances import check_tolerances
from kinbayes.problem import parameters as maps
from kinbayes.problem import residuals
from kinbayes.problem.constraints import Constraint, as_observable, grouped, named, rows_of
from kinbayes.problem.digest import digest
from kinbayes.problem.failures import Failure, failures
from kinbayes.problem.inputs import Input, check_inputs, driven
from kinbayes.problem.layout import lanes_of, layout
from kinbayes.problem.likelihood import Declaration, Likelihood, RowDerivatives, Rows, refuse_steady_states
from kinbayes.problem.log_prior import forms, prior_data
from kinbayes.problem.observables import Experiment, Measurement, Observable, fillings, measurements
from kinbayes.problem.parameters import Box, Parameter
from kinbayes.problem.periods import expanded
from kinbayes.problem.structure import Batched, Data, Functions, Structure, functions


class Evaluation(NamedTuple):
    """Densities of a batch of parameter vectors, and how their simulations ended (see `kinbayes.ode.status.Status`)."""

    log_likelihood: Float[np.ndarray, " n"]
    log_prior: Float[np.ndarray, " n"]
    status: Int[np.ndarray, " n"]


class Problem:
    """A posterior: a model, parameters with priors, observables with noise, experiments, and data.

    Parameters
    ----------
    model
        The kinetic model.
    parameters
        What is estimated, in the order of the parameter vector, and constants (`estimate=False`).
    observables
        What was measured.
    data
        The measurements, with PEtab's column names: `observableId`, `time`, `measurement`, and where needed
        `simulationConditionId`, `preequilibrationConditionId`, `observableParameters`, `noiseParameters`. One column of
        our own, `censoring`, is `below` or `above` where the true value lies below or above `measurement`.
    experiments
        The conditions that `simulationConditionId` names; by default one, in which the model stands as it is.
    inputs
        Parameters of the model that follow tables over time.
    constraints
        Qualitative data: statements about the model. They stand behind the observables and the measurements, each with
        the value 1 (it holds).
    rtol, atol
        Tolerances of the simulation, relative and absolute. The native engine lowers the absolute one for states that
        have always been smaller than 1, down to a thousandth of the largest state.
    engine
        `native`: machine code on all cores of the CPU; `jax`: for GPUs, and for programs that must be JAX all the way.
    max_steps
        Steps after which a simulation counts as failed.

    Raises
    ------
    ModelError, FormulaError, ParameterError, DataError, ConstraintError
        If the parts contradict each other; the message names the part, and for data its row and column.

    Notes
    -----
    `u` is the scaled parameter vector, float64 (dim,). Densities are with respect to du: a prior on natural values
    brings its log |dθ/du|, so the posterior does not depend on the scale chosen for moving.
    """

    def __init__(
        self,
        model: Model,
        parameters: Sequence[Parameter],
        observables: Sequence[Observable],
        data: pd.DataFrame,
        *,
        experiments: Sequence[Experiment] | None = None,
        inputs: Sequence[Input] = (),
        constraints: Sequence[Constraint] = (),
        rtol: float = 1e-6,
        atol: float = 1e-9,
        engine: str = "native",
        max_steps: int = 10_000,
        name: str | None = None,
    ) -> None:
        experiments = [Experiment("experiment")] if experiments is None else list(experiments)
        kinds = {"parameter": parameters, "observable": observables, "experiment": experiments, "input": inputs}
        for kind, things in kinds.items():
            names = [thing.name for thing in things]
            twice = sorted({n for n in names if names.count(n) > 1})
            if twice:
                raise ValueError(f"{kind} names {twice} are used twice; every {kind} needs its own")
        check_tolerances(rtol, atol)
        check_inputs(inputs, experiments, [p.name for p in parameters])
        self.name = name or model.name
        self.model = model
        self.parameters = tuple(parameters)
        self.estimated = tuple(p for p in parameters if p.estimate)
        taken = {*model.initial, *model.expressions, *(t.name for things in kinds.values() for t in things)}
        self.constraints = named(constraints, taken)
        declared = [p.name for p in parameters]
        self.observables = (*observables, *(as_observable(c, model, declared, observables) for c in self.constraints))
        self.experiments = tuple(experiments)
        self.inputs = tuple(inputs)
        self.rtol, self.atol, self.engine, self.max_steps = rtol, atol, engine, max_steps
        self._prior_data = prior_data(self.estimated)
        self._set_measurements(measurements(data, observables, self.experiments))

    def _set_measurements(self, rows: Sequence[Measurement]) -> None:
        """Take the measurements of the data; those of constraints follow from them."""
        looked_at = [rows_of(c, rows, self.experiments) for c in self.constraints]
        all_rows = [*rows, *itertools.chain(*looked_at)]
        if self.engine == "jax":
            refuse_steady_states(all_rows)
        self.measurements: tuple[Measurement, ...] = (*rows, *(own[-1] for own in looked_at))
        model, experiments = driven(self.model, self.experiments, self.inputs)
        model, experiments = expanded(model, experiments, [p.name for p in self.parameters])
        self._functions: Functions = functions(self._structure(model, experiments))
        constants = {p.name: p.nominal for p in self.parameters if not p.estimate}
        slots = self._functions.likelihood.slots
        numbers = layout(slots, all_rows, experiments, constants, rtol=self.rtol, atol=self.atol)
        self._data = self._functions.data(grouped(numbers, self.constraints, [len(own) for own in looked_at]))

    def _structure(self, model: Model, experiments: Sequence[Experiment]) -> Structure:
        return Structure(
            model,
            tuple(Declaration(p.name, p.scale, p.estimate) for p in self.parameters),
            forms(self.estimated),
            self.observables,
            tuple(e.given for e in experiments),
            self.engine,
            self.max_steps,
            any(m.censoring for m in self.measurements),
        )

    def _copy(self) -> "Problem":
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        for name in ("hash", "_smooth_data"):
            copy.__dict__.pop(name, None)
        return copy

    def __getstate__(self) -> dict[str, object]:
        # What is compiled, and numbers with addresses, mean nothing in another process.
        compiled = ("_functions", "_data", "_smooth_data", "_prior_data")
        return {name: value for name, value in self.__dict__.items() if name not in compiled}

    def __setstate__(self, state: Mapping[str, object]) -> None:
        self.__dict__.update(state)
        self._prior_data = prior_data(self.estimated)
        self._set_measurements(self.measurements[: len(self.measurements) - len(self.constraints)])

    def with_data(self, data: pd.DataFrame | Float[np.ndarray, " measurements"]) -> "Problem":
        """Return this problem with other measurements; where the table has the same structure nothing recompiles.

        Parameters
        ----------
        data
            A table as the problem was made of; or one value for each of `measurements` that is none of a constraint,
            as `draw_measurements` draws them, and all else stays.

        Raises
        ------
        DataError
            If the table cannot be read.
        ValueError
            If there are more values than measurements, or fewer.
        """
        copy = self._copy()
        if isinstance(data, pd.DataFrame):
            rows = measurements(data, self._measured, self.experiments)
        else:
            own = self.measurements[: len(self.measurements) - len(self.constraints)]
            values = np.asarray(data, dtype=float)
            if values.shape != (len(own),):
                raise ValueError(f"the problem has {len(own)} measurements; got values of shape {values.shape}")
            rows = [m._replace(value=float(value)) for m, value in zip(own, values, strict=True)]
        copy._set_measurements(rows)
        return copy

    @property
    def _measured(self) -> tuple[Observable, ...]:
        """The observables that are no constraints."""
        return self.observables[: len(self.observables) - len(self.constraints)]

    def with_tolerances(self, rtol: float, atol: float) -> "Problem":
        """Return this problem with other solver tolerances; nothing recompiles."""
        check_tolerances(rtol, atol)
        copy = self._copy()
        copy.rtol, copy.atol = rtol, atol
        tolerances = {"rtol": np.float64(rtol), "atol": np.float64(atol)}
        copy._data = self._functions.data(self._data.layout._replace(**tolerances))
        return copy

    def __repr__(self) -> str:
        return (
            f"Problem({self.name!r}: {self.dim} parameters, {len(self.model.states)} states, "
            f"{len(self.observables)} observables, {len(self.experiments)} experiments, "
            f"{len(self.measurements)} measurements)"
        )

    # ---- names and scales

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the estimated parameters, in the order of u."""
        return tuple(p.name for p in self.estimated)

    @property
    def dim(self) -> int:
        """Number of estimated parameters."""
        return len(self.estimated)

    @property
    def scale(self) -> tuple[str, ...]:
        """Scale of every estimated parameter: lin, ln or log10."""
        return tuple(p.scale for p in self.estimated)

    @property
    def lower(self) -> Float[Array, " dim"]:
        """Lower bounds, scaled; −inf where open."""
        return self._prior_data.lower

    @property
    def upper(self) -> Float[Array, " dim"]:
        """Upper bounds, scaled; +inf where open."""
        return self._prior_data.upper

    @property
    def nominal(self) -> Float[Array, " dim"]:
        """Nominal values, scaled; NaN where none was given."""
        theta = np.array([np.nan if p.nominal is None else p.nominal for p in self.estimated])
        return jnp.asarray(maps.scaled(theta, self.scale))

    @property
    def num_lanes(self) -> int:
        """Number of simulations that one evaluation of the likelihood takes.

        One for every experiment with measurements, and for every pre-equilibration before it.
        """
        return int(self._data.layout.times.shape[0])

    @property
    def likelihood(self) -> Likelihood:
        """What the likelihood computes, as expressions."""
        return self._functions.likelihood

    @property
    def is_equilibrated(self) -> bool:
        """Whether measurements come after a pre-equilibration."""
        return any(m.preequilibration for m in self.measurements)

    @property
    def is_proper(self) -> bool:
        """Whether the prior integrates to one, so that the posterior may be sampled."""
        return all(p.is_proper for p in self.estimated)

    @property
    def is_likelihood(self) -> bool:
        """Whether all terms are of a likelihood, so that there is a posterior; else there is only something to fit."""
        return not self.no_likelihood_because

    @property
    def no_likelihood_because(self) -> str:
        """Why there is no likelihood, and what to do about it; empty where there is one."""
        for observable in self._measured:
            if not observable.noise.is_likelihood:
                return (
                    f"observable {observable.name!r} has the objective {observable.noise.family}, which is no "
                    "likelihood: it does not say how measurements scatter, so there is no posterior; take one that "
                    "is, such as kb.objectives.chi_sq_dynamic (normal noise with an estimated sd), or optimize"
                )
        for constraint in self.constraints:
            if constraint.is_penalty:
                return (
                    f"constraint '{constraint}' has a static penalty, which is no likelihood, so there is no "
                    "posterior; give it a confidence and a tolerance in place of weight and minimum, or optimize"
                )
        return ""

    @property
    def is_grouped(self) -> bool:
        """Whether constraints look at more than one time.

        Which of them counts is decided outside the native kernel, whose own totals do not hold then.
        """
        return self._data.layout.groups is not None

    def to_natural(self, u: Float[ArrayLike, " dim"]) -> dict[str, float]:
        """Return the natural values of a scaled vector, by name."""
        theta = maps.natural(np.asarray(u, dtype=float), self.scale)
        return dict(zip(self.parameter_names, map(float, theta), strict=True))

    def to_scaled(self, values: Mapping[str, float]) -> Float[Array, " dim"]:
        """Return the scaled vector of natural values by name.

        Raises
        ------
        ValueError
            If a name is missing or unknown.
        """
        missing, unknown = set(self.parameter_names) - set(values), set(values) - set(self.parameter_names)
        if missing or unknown:
            raise ValueError(f"missing values: {sorted(missing)}, unknown names: {sorted(unknown)}")
        theta = np.array([values[n] for n in self.parameter_names], dtype=float)
        return jnp.asarray(maps.scaled(theta, self.scale))

    def unconstrain(self, u: Float[ArrayLike, " dim"]) -> Float[Array, " dim"]:
        """Return the unconstrained vector x of a scaled vector inside the bounds."""
        return maps.unconstrain(Box(self.lower, self.upper), jnp.asarray(u))

    def constrain(self, x: Float[ArrayLike, " dim"]) -> Float[Array, " dim"]:
        """Return the scaled vector of an unconstrained one."""
        return maps.constrain(Box(self.lower, self.upper), jnp.asarray(x))[0]

    # ---- densities

    def log_prior(self, u: Float[ArrayLike, " dim"]) -> Float[Array, ""]:
        """Return the log prior density with respect to du; −inf outside the bounds."""
        return self._functions.log_prior(jnp.asarray(u), self._prior_data)

    def log_likelihood(self, u: Float[ArrayLike, " dim"]) -> Float[Array, ""]:
        """Return the log likelihood, constants included; −inf where a simulation fails."""
        return self._functions.log_likelihood(*self._differentiable(u))

    def log_density(self, u: Float[ArrayLike, " dim"]) -> Float[Array, ""]:
        """Return the log posterior density with respect to du, up to the evidence."""
        return self.log_prior(u) + self.log_likelihood(u)

    def pointwise_log_likelihood(self, u: Float[ArrayLike, " dim"]) -> Float[Array, " measurements"]:
        """Return the log density of every measurement, in the order of the data."""
        return self._functions.pointwise(*self._differentiable(u))

    def simulated(self, u: Float[ArrayLike, " dim"]) -> Float[Array, " measurements"]:
        """Return the prediction of every measurement, in the order of the data."""
        return self._functions.simulated(*self._differentiable(u))

    def value_and_grad(self, u: Float[ArrayLike, " dim"]) -> tuple[Float[Array, ""], Float[Array, " dim"]]:
        """Return the log posterior density and its gradient; a failed simulation adds nothing to it."""
        values = self.batched.value_and_grad(jnp.asarray(u)[None])
        prior, likelihood, prior_grad, likelihood_grad = (value[0] for value in values)
        return prior + likelihood, prior_grad + likelihood_grad

    def residuals(self, u: Float[ArrayLike, " dim"]) -> Float[np.ndarray, " measurements"]:
        """Return how far every measurement is from its prediction, in units of its noise and on its transformation.

        That unit is the standard deviation for normal and negative binomial noise, else the scale. For a censored
        measurement it is the root of -2 log of its probability, negative where the true value lies below. Of sums of
        squares and of constraints it is the number half of whose square is the loss.
        """
        rows = self._rows(u)
        return residuals.residuals(self.observables, self.measurements, rows)

    def residual_jacobian(self, u: Float[ArrayLike, " dim"]) -> Float[np.ndarray, "measurements dim"]:
        """Return the derivatives of the residuals; zeros where the simulation fails."""
        rows, slopes = self._rows(u), self._slopes(u)
        return residuals.residual_jacobian(self.observables, self.measurements, rows, slopes)

    def fisher(self, u: Float[ArrayLike, " dim"]) -> Float[np.ndarray, "dim dim"]:
        """Return the expected Fisher information of the measurements about u; zeros where the simulation fails.

        Raises
        ------
        ValueError
            If a noise setting is estimated whose information has no closed form (degrees of freedom, dispersion), or a
            measurement is censored.
        """
        rows, slopes = self._rows(u), self._slopes(u)
        return residuals.fisher(self.observables, self.measurements, rows, slopes)

    def _rows(self, u: Float[ArrayLike, " dim"]) -> Rows:
        return Rows(*(part[0] for part in self.rows(np.asarray(u, dtype=float)[None])))

    def _slopes(self, u: Float[ArrayLike, " dim"]) -> RowDerivatives:
        found = self.row_derivatives(np.asarray(u, dtype=float)[None])
        return RowDerivatives(*(part[0] for part in found))

    @property
    def batched(self) -> Batched:
        """The densities as functions of whole batches, bound to this problem's numbers."""
        functions = self._functions.batched
        return Batched(
            Partial(functions.log_prior, self._prior_data),
            Partial(functions.log_likelihood, self._data),
            Partial(functions.value_and_grad, self._prior_data, self._smooth_data),
            Partial(functions.curvature, self._prior_data, self._smooth_data),
        )

    @functools.cached_property
    def _smooth_data(self) -> Data:
        """The numbers with derivatives, compiled when they are first wanted."""
        with jax.ensure_compile_time_eval():  # the first to want them may be a function that is being traced
            return self._functions.differentiable(self._data)

    def _differentiable(self, u: Float[ArrayLike, " dim"]) -> tuple[Array, Data]:
        """Return a vector and the numbers: with derivatives where JAX may be about to take them."""
        is_traced = isinstance(u, jax.core.Tracer)
        return jnp.asarray(u), self._smooth_data if is_traced else self._data

    @property
    def gradient_numbers(self) -> Numbers:
        """The numbers of the native engine with derivatives, for hosts that call it themselves; arrays of NumPy.

        Raises
        ------
        ValueError
            If the engine is another, or constraints look at more than one time: the kernel's totals are of all rows.
        """
        if self.engine != "native":
            raise ValueError(f"the engine is {self.engine!r}; only engine='native' has numbers")
        if self.is_grouped:
            raise ValueError(
                "constraints that hold always, once or between two times are decided outside the native kernel, which "
                "is called by itself here; sample with settings={'backend': 'numpyro'}, or state them ('at', time)"
            )
        return type(self._smooth_data.native)(*map(np.asarray, self._smooth_data.native))

    def evaluate(self, U: Float[ArrayLike, "n dim"]) -> Evaluation:
        """Return densities and statuses of a batch of vectors. A failed simulation is a status, not an error."""
        vectors = np.asarray(U, dtype=float)
        log_likelihood, status = self._functions.evaluate(self._data, vectors)
        # In powers of two, so that few sizes are ever compiled.
        num = len(vectors)
        padded = np.resize(vectors, (1 << max(num - 1, 0).bit_length(), self.dim))
        return Evaluation(
            log_likelihood, np.asarray(self._functions.batched.log_prior(self._prior_data, padded))[:num], status
        )

    def failures(self, u: Float[ArrayLike, " dim"]) -> tuple[Failure, ...]:
        """Return what failed of a vector's simulations: where, when, why, and what to try, as `str` tells it.

        Raises
        ------
        ValueError
            If the engine is another than `native`.
        """
        if self.engine != "native":
            raise ValueError(f"the engine is {self.engine!r}; only engine='native' tells what failed")
        numbers = type(self._data.native)(*map(np.asarray, self._data.native))
        found = native.simulated(numbers, np.asarray(u, dtype=float)[None])
        names = lanes_of(self.measurements, self.experiments)
        return failures(found.lanes, names, self._functions.likelihood.model.states)

    def rows(self, U: Float[ArrayLike, "n dim"]) -> Rows:
        """Return predictions, noise settings, log densities and statuses of a batch of vectors, (n, …) each."""
        return self._functions.rows(self._data, np.asarray(U, dtype=float))

    def row_derivatives(self, U: Float[ArrayLike, "n dim"]) -> RowDerivatives:
        """Return the derivatives of predictions, noise settings and log densities, (n, …, dim) each.

        Where a simulation fails they are zero.
        """
        return self._functions.row_derivatives(self._smooth_data, np.asarray(U, dtype=float))

    def states(self, U: Float[ArrayLike, "n dim"]) -> Float[np.ndarray, "n lanes times states"]:
        """Return the states of every simulation (see `num_lanes`) at its own measured times, padded by the last."""
        return self._functions.states(self._data, np.asarray(U, dtype=float))

    def petab_objective(self, u: Float[ArrayLike, " dim"]) -> float:
        """Return the negative log posterior as PEtab v1 tools count it: no Jacobian, no renormalised priors."""
        theta = maps.natural(np.asarray(u, dtype=float), self.scale)
        total = -float(self.log_likelihood(u))
        for k, parameter in enumerate(self.estimated):
            if parameter.prior is not None:
                value = theta[k] if parameter.prior.on == "natural" else float(np.asarray(u)[k])
                total -= float(parameter.prior.distribution().logpdf(value))
        return total

    # ---- drawing

    def draw_prior(self, rng: np.random.Generator, size: int) -> Float[np.ndarray, "size dim"]:
        """Return draws of the prior, scaled.

        Raises
        ------
        ParameterError
            If the prior of a parameter is improper.
        """
        return maps.draw(self.estimated, rng, size)

    def draw_starts(self, rng: np.random.Generator, size: int) -> Float[np.ndarray, "size dim"]:
        """Return scaled points to start a search from: prior draws; for an improper prior, around what is known."""
        return maps.draw_starts(self.estimated, rng, size)

    def draw_measurements(
        self,
        rng: np.random.Generator,
        simulated: Float[np.ndarray, "*batch measurements"],
        noise: Float[np.ndarray, "*batch measurements settings"],
    ) -> Float[np.ndarray, "*batch measurements"]:
        """Return draws of the measurements around predictions, with measurement noise.

        None is censored: they are what would be measured if there were no limits. Of a statement it is whether it is
        seen to hold, 1 or 0.

        Raises
        ------
        ValueError
            If an observable has no likelihood.
        """
        if not self.is_likelihood:
            raise ValueError(f"measurements cannot be drawn: {self.no_likelihood_because}")
        drawn = np.empty_like(simulated)
        for observable in self.observables:
            members = [r for r, m in enumerate(self.measurements) if m.observable == observable.name]
            settings = [noise[..., members, k] for k in range(len(observable.noise.formulas))]
            drawn[..., members] = observable.noise.draw(rng, simulated[..., members], *settings)
        return drawn

    # ---- other questions to the same posterior

    def on_grid(self, experiment: Experiment, times: Sequence[float] | Float[np.ndarray, " times"]) -> "Problem":
        """Return this problem with every observable on a grid of times in one experiment, in place of its data.

        Constraints are left out.

        Its measurements are NaN: it predicts and has no likelihood. Placeholders of an observable are filled as in
        its measurements, which must agree on them; where they do not, the observable is left out. The model is
        pre-equilibrated as for the first measurement of that experiment; if it has none, not at all.

        Raises
        ------
        ValueError
            If a time lies before the experiment's start.
        """
        if min(times) < experiment.start:
            raise ValueError(
                f"time {min(times):g} lies before the start of experiment {experiment.name!r} at {experiment.start:g}"
            )
        grid = self._copy()
        before = next((m.preequilibration for m in self.measurements if m.experiment == experiment.name), "")
        grid.experiments = (experiment, *(e for e in self.experiments if e.name == before != experiment.name))
        rows = []
        for observable in self._measured:
            filled = fillings(self.measurements, observable.name, experiment.name)
            if filled is not None:
                place = (observable.name, experiment.name)
                rows += [Measurement(*place, t, np.nan, *filled, before) for t in sorted(times)]
        grid.observables = tuple(o for o in self._measured if any(r.observable == o.name for r in rows))
        grid.constraints = ()
        grid._set_measurements(rows)
        return grid

    @functools.cached_property
    def hash(self) -> str:
        """A digest of everything that defines the posterior: model, parameters, noise, experiments, data, solver."""
        parts = (
            self.parameters,
            self.observables,
            self.experiments,
            self.inputs,
            self.measurements,
            self.constraints,
        )
        return digest(self.model, *parts, settings=(self.rtol, self.atol, self.engine, self.max_steps))

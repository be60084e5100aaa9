"""The posterior as a model of NumPyro, and the likelihood as an observed site of larger ones.

    model = kb.to_numpyro(problem)
    mcmc = MCMC(NUTS(model), num_warmup=1000, num_samples=1000, num_chains=4, chain_method="vectorized")
    mcmc.run(jax.random.key(0))
    replicated = Predictive(numpyro.handlers.uncondition(model), mcmc.get_samples())(jax.random.key(1))

A program that NumPyro compiles holds the numbers of the problem, and with them addresses of this process. Where JAX's
persistent cache is in use, pass `problem.batched` as the model's argument, and let NumPyro compile for any arguments
(`MCMC(..., jit_model_args=True)`).
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, ArrayLike, Bool, Float, UInt
from numpyro.distributions import constraints

from kinbayes.hosts.numpyro_kernels import AdaptiveMetropolis, Dream, Metropolis, ParallelTempering
from kinbayes.hosts.numpyro_priors import site_distribution, site_name
from kinbayes.ode.numbers import Numbers
from kinbayes.ode.status import Status
from kinbayes.problem import native_likelihood
from kinbayes.problem.groups import counted
from kinbayes.problem.jax_likelihood import jax_likelihood
from kinbayes.problem.layout import Groups
from kinbayes.problem.likelihood import MOST_SETTINGS
from kinbayes.problem.parameters import LOG_FACTORS
from kinbayes.problem.problem import Problem
from kinbayes.problem.structure import Batched, Data

__all__ = [
    "AdaptiveMetropolis",
    "Dream",
    "Measurements",
    "Metropolis",
    "ParallelTempering",
    "likelihood",
    "to_numpyro",
]

SITE = "measurements"


def to_numpyro(problem: Problem, *, name: str = SITE) -> Callable[..., None]:
    """Return the posterior as a model of NumPyro.

    A parameter on a logarithmic scale is a sample site `log10_<name>` or `ln_<name>` on that scale, and a deterministic
    site under its own name, in natural values; another is a sample site under its own name. The measurements are one
    observed site.

    Parameters
    ----------
    problem
        The problem; its prior must be proper.
    name
        Of the observed site; see `likelihood`.

    Returns
    -------
    The model. It can be called without arguments. Its one argument is `problem.batched` of another problem of the
    same structure (`problem.with_data`): other measurements, without compiling again where the arguments of models are
    arguments of what NumPyro compiles.

    Raises
    ------
    ParameterError
        If a prior is improper.
    ValueError
        If two sites would have one name, or the problem has no likelihood.
    """
    if not problem.is_likelihood:
        raise ValueError(problem.no_likelihood_because)
    sites = {p.name: (site_name(p), site_distribution(p)) for p in problem.estimated}
    names = [name, *sites, *(site for own, (site, _) in sites.items() if site != own)]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ValueError(
            f"sites {twice} would exist twice; give the measurements another `name`, or rename the parameters "
            "(the sample site of a parameter on a logarithmic scale is called log10_<name> or ln_<name>)"
        )

    def model(densities: Batched | None = None) -> None:
        values = {}
        for parameter in problem.estimated:
            site, prior = sites[parameter.name]
            values[parameter.name] = value = numpyro.sample(site, prior)
            if parameter.scale != "lin":
                natural = jnp.exp(LOG_FACTORS[parameter.scale] * value)
                values[parameter.name] = numpyro.deterministic(parameter.name, natural)
        likelihood(problem, values, name=name, densities=densities)

    return model


def likelihood(
    problem: Problem,
    parameters: Mapping[str, ArrayLike],
    *,
    name: str = SITE,
    densities: Batched | None = None,
) -> None:
    """Add a problem's measurements to a model of NumPyro, as an observed site.

    The parameters may come from anything: regressions, hierarchies, other problems. The problem's own priors and bounds
    have no say. A value that has no logarithm, of a parameter on a logarithmic scale, has a likelihood of zero.

    `numpyro.handlers.uncondition` makes the site a prediction: simulated, with measurement noise.

    Parameters
    ----------
    problem
        The problem.
    parameters
        All its estimated parameters by name, in natural values; scalars.
    name
        Of the site.
    densities
        `problem.batched` of a problem of the same structure, where that is an argument of what is compiled.

    Raises
    ------
    ValueError
        If a parameter is missing, unknown or no scalar, or the problem has no likelihood.
    """
    if not problem.is_likelihood:
        raise ValueError(problem.no_likelihood_because)
    missing = [p for p in problem.parameter_names if p not in parameters]
    unknown = sorted(set(parameters) - set(problem.parameter_names))
    if missing or unknown:
        raise ValueError(f"missing parameters: {missing}, unknown ones: {unknown}; give {problem.parameter_names}")
    shapes = {p: jnp.shape(value) for p, value in parameters.items() if jnp.shape(value)}
    if shapes:
        raise ValueError(f"parameters must be scalars, but there are shapes {shapes}; add one likelihood a member")
    columns, has_logarithm = [], []
    for parameter in problem.estimated:
        value = jnp.asarray(parameters[parameter.name], dtype=float)
        if parameter.scale != "lin":
            has_logarithm.append(value > 0)
            # The logarithm sees a harmless argument where it is not taken, so that no derivative becomes NaN.
            value = jnp.log(jnp.where(value > 0, value, 1.0)) / LOG_FACTORS[parameter.scale]
        columns.append(value)
    u = jnp.stack(columns) if columns else jnp.zeros(0)
    is_possible = jnp.array(has_logarithm).all()
    site = Measurements(problem, problem.batched if densities is None else densities, u, is_possible)
    numpyro.sample(name, site, obs=site.measured)


class Measurements(dist.Distribution):
    """The distribution of all measurements of a problem at once.

    Its log density is that of the measurements that the problem has, as the engine computes it, and is refused for
    others. Draws are simulated and have measurement noise; NaN where a simulation fails.

    Parameters
    ----------
    problem
        The problem.
    densities
        Its densities and numbers.
    u
        Scaled vector (dim,).
    is_possible
        Whether the likelihood is more than zero.
    """

    arg_constraints: dict = {}  # noqa: RUF012  (NumPyro's)
    support = constraints.real_vector
    pytree_data_fields = ("densities", "u", "is_possible")
    pytree_aux_fields = ("problem",)
    has_rsample = False

    def __init__(
        self, problem: Problem, densities: Batched, u: Float[Array, " dim"], is_possible: Bool[Array, ""]
    ) -> None:
        self.problem, self.densities, self.u, self.is_possible = problem, densities, u, is_possible
        super().__init__(event_shape=(len(problem.measurements),))

    @property
    def _data(self) -> Data:
        """The numbers of the likelihood, which are the last that its gradient is bound to."""
        return self.densities.value_and_grad.args[-1]

    @property
    def measured(self) -> Float[Array | np.ndarray, " measurements"]:
        """The measurements, in the order of the data; known at once where the numbers are."""
        layout = counted(self._data.layout)
        if isinstance(layout.order, jax.core.Tracer):
            return jnp.concatenate([row.measurement for row in layout.rows])[layout.order]
        return np.concatenate([row.measurement for row in layout.rows])[layout.order]

    def log_prob(self, value: Float[Array | np.ndarray, " measurements"]) -> Float[Array, ""]:
        """Return the log likelihood; -inf where it is zero or a simulation fails.

        Raises
        ------
        ValueError
            If the values are not the measurements; where only the running program knows, it is NaN.
        """
        measured = self.measured
        found = jnp.where(self.is_possible, _log_likelihood(self.u, self.densities), -jnp.inf)
        if isinstance(measured, jax.core.Tracer) or isinstance(value, jax.core.Tracer):
            return jnp.where(jnp.all(value == measured), found, jnp.nan)
        if not np.array_equal(value, measured):
            raise ValueError("the likelihood is that of the problem's own measurements; for others see `with_data`")
        return found

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Float[Array, "*shape measurements"]:
        """Return simulated measurements with noise, which the key alone seeds."""
        simulated, noise, is_good = _predictions(self.problem, self._data, self.u)

        def host(words: Array, simulated: Array, noise: Array, is_good: Array) -> np.ndarray:
            return _noisy(self.problem, *map(np.asarray, (words, simulated, noise, is_good)))

        result = jax.ShapeDtypeStruct(sample_shape + self.event_shape, simulated.dtype)
        words = jax.random.key_data(jax.random.split(key, sample_shape))
        given = [
            jnp.broadcast_to(part, sample_shape + part.shape) for part in (simulated, noise, is_good & self.is_possible)
        ]
        return jax.pure_callback(host, result, words, *given, vmap_method="broadcast_all")


@jax.custom_jvp
def _log_likelihood(u: Float[Array, " dim"], densities: Batched) -> Float[Array, ""]:
    (found,) = densities.log_likelihood(u[None])
    return _or_failed(found)


@_log_likelihood.defjvp
def _derivative(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    u, densities = primals
    _, (found,), _, (gradient,) = densities.value_and_grad(u[None])
    return _or_failed(found), jnp.where(jnp.isfinite(found), gradient, 0.0) @ tangents[0]


def _or_failed(log_likelihood: Float[Array, ""]) -> Float[Array, ""]:
    """Return a log likelihood; -inf where it is no density (NaN or +inf)."""
    return jnp.where(log_likelihood < jnp.inf, log_likelihood, -jnp.inf)


def _predictions(problem: Problem, data: Data, u: Float[Array, " dim"]) -> tuple[Array, Array, Array]:
    """Return predictions (measurements,), noise settings (measurements, settings), and whether all went well."""
    if problem.engine == "jax":
        found = jax_likelihood(problem.likelihood, max_steps=problem.max_steps).rows(u, data.layout)
        return found.simulated, found.noise, jnp.all(found.status == int(Status.OK))

    def host(numbers: tuple, groups: Groups | None, u: Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        code, ints, floats = (np.asarray(part).reshape(-1) for part in numbers)
        U = np.asarray(u)
        own = jax.tree.map(lambda part: np.asarray(part).reshape(part.shape[U.ndim - 1 :]), groups)
        found = native_likelihood.rows(Numbers(code, ints, floats), U.reshape(-1, U.shape[-1]), own)
        parts = found.simulated, found.noise, np.all(found.status == Status.OK, axis=-1)
        return tuple(np.reshape(part, U.shape[:-1] + part.shape[1:]) for part in parts)

    num, number = len(problem.measurements), jax.ShapeDtypeStruct
    results = number((num,), u.dtype), number((num, MOST_SETTINGS), u.dtype), number((), bool)
    return jax.pure_callback(host, results, tuple(data.native), data.layout.groups, u, vmap_method="expand_dims")


def _noisy(
    problem: Problem,
    words: UInt[np.ndarray, "*batch words"],
    simulated: Float[np.ndarray, "*batch measurements"],
    noise: Float[np.ndarray, "*batch measurements settings"],
    is_good: Bool[np.ndarray, "*batch"],
) -> Float[np.ndarray, "*batch measurements"]:
    """Return draws around predictions, each from its own seed; NaN where a simulation failed."""
    drawn = np.full(simulated.shape, np.nan)
    for place in np.ndindex(is_good.shape):
        if is_good[place]:
            rng = np.random.default_rng(words[place].tolist())
            drawn[place] = problem.draw_measurements(rng, simulated[place], noise[place])
    return drawn

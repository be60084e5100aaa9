"""Analytic targets with known moments and quantiles, for the contract tests of samplers.

Each builder returns a `KnownTarget`. Builders of one kind make targets of one structure: other numbers, no
tracing.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jax.tree_util import Partial

import kinbayes  # noqa: F401  (switches JAX to 64-bit floats)
from kinbayes.samplers.base import Target


class KnownTarget(NamedTuple):
    """A target, the truth about it, and a place to start from."""

    target: Target
    mean: np.ndarray
    sd: np.ndarray
    low: np.ndarray  # 5 % quantiles
    high: np.ndarray  # 95 % quantiles
    initial: np.ndarray  # (chains, dim)


def build_target(log_prior: Callable, log_likelihood: Callable, data, lower: np.ndarray, upper: np.ndarray) -> Target:
    """Make a Target from two module-level functions (data, u (dim,)) -> scalar."""
    lower, upper = jnp.asarray(lower, float), jnp.asarray(upper, float)
    data = jax.tree.map(jnp.asarray, data)
    prior, likelihood = Partial(log_prior), Partial(log_likelihood)
    return Target(
        log_prior=Partial(_batched, prior, data),
        log_likelihood=Partial(_batched, likelihood, data),
        value_and_grad=Partial(_batched_value_and_grad, prior, likelihood, data),
        lower=lower,
        upper=upper,
        constrain=Partial(_constrain, lower, upper),
        unconstrain=Partial(_unconstrain, lower, upper),
    )


def _batched(log_density, data, U):
    return jax.vmap(lambda u: log_density(data, u))(U)


def _batched_value_and_grad(prior, likelihood, data, U):
    def both(u):
        log_prior, prior_gradient = jax.value_and_grad(prior, argnums=1)(data, u)
        log_likelihood, likelihood_gradient = jax.value_and_grad(likelihood, argnums=1)(data, u)
        return log_prior, log_likelihood, prior_gradient, likelihood_gradient

    return jax.vmap(both)(U)


def _constrain(lower, upper, x):
    """Map x to u: logistic between two walls, exponential from one wall, the identity elsewhere."""
    two, from_below, from_above, low, high = _walls(lower, upper)
    between = low + (high - low) * jax.nn.sigmoid(x)
    exponential = jnp.exp(jnp.where(from_below | from_above, x, 0.0))
    one = jnp.where(from_below, low + exponential, jnp.where(from_above, high - exponential, x))
    volume_of_two = jnp.log(high - low) + jax.nn.log_sigmoid(x) + jax.nn.log_sigmoid(-x)
    volume_of_one = jnp.where(from_below | from_above, x, 0.0)
    return jnp.where(two, between, one), jnp.where(two, volume_of_two, volume_of_one).sum()


def _unconstrain(lower, upper, u):
    two, from_below, from_above, low, high = _walls(lower, upper)
    part = jnp.where(two, (u - low) / (high - low), 0.5)
    distance = jnp.where(from_below, u - low, jnp.where(from_above, high - u, 1.0))
    one = jnp.where(from_below | from_above, jnp.log(distance), u)
    return jnp.where(two, jnp.log(part) - jnp.log1p(-part), one)


def _walls(lower, upper):
    has_lower, has_upper = jnp.isfinite(lower), jnp.isfinite(upper)
    two = has_lower & has_upper
    low = jnp.where(has_lower, lower, 0.0)
    high = jnp.where(has_upper, upper, low + 1.0)
    return two, has_lower & ~has_upper, has_upper & ~has_lower, low, high


def correlated_normal(observed: float = 1.5, correlation: float = 0.8, dim: int = 3, chains: int = 4) -> KnownTarget:
    """Normal prior with equal correlations, and a normal measurement of its first entry."""
    prior_covariance = correlation * np.ones((dim, dim)) + (1 - correlation) * np.eye(dim)
    noise = 0.5
    data = {"precision": np.linalg.inv(prior_covariance), "observed": observed, "noise": noise}
    gain = prior_covariance[:, 0] / (prior_covariance[0, 0] + noise**2)
    mean = gain * observed
    covariance = prior_covariance - np.outer(gain, prior_covariance[0])
    open_walls = np.full(dim, np.inf)
    exact = [scipy.stats.norm(m, s) for m, s in zip(mean, np.sqrt(np.diag(covariance)), strict=True)]
    initial = np.random.default_rng(1).normal(size=(chains, dim))
    return _known(build_target(_normal_prior, _first_measured, data, -open_walls, open_walls), exact, initial)


def _normal_prior(data, u):
    return -0.5 * u @ data["precision"] @ u


def _first_measured(data, u):
    return -0.5 * ((u[0] - data["observed"]) / data["noise"]) ** 2


def log_gamma(edge: float = np.inf, failure: float = np.nan, chains: int = 4) -> KnownTarget:
    """Logarithms of two Poisson rates with exponential priors, skewed to the left.

    The first has been counted three times, (0, 2, 1), and its likelihood fails, with the value given, beyond
    an edge.
    """
    data = {"total": 3.0, "number": 3.0, "edge": edge, "failure": failure}
    counted = scipy.stats.loggamma(4.0, loc=-np.log(4.0))
    exact = [counted if np.isinf(edge) else _Below(counted, edge), scipy.stats.loggamma(1.0)]
    open_walls = np.full(2, np.inf)
    initial = np.random.default_rng(2).uniform(-1.0, -0.5, size=(chains, 2))
    return _known(build_target(_exponential, _poisson, data, -open_walls, open_walls), exact, initial)


def _exponential(data, u):
    return (u - jnp.exp(u)).sum()


def _poisson(data, u):
    log_likelihood = data["total"] * u[0] - data["number"] * jnp.exp(u[0])
    return jnp.where(u[0] > data["edge"], data["failure"], log_likelihood)


def against_walls(rate: float = 6.0, chains: int = 4) -> KnownTarget:
    """Independent entries that lean on their walls: two walls, one below, one above, and flat between two."""
    lower, upper = np.array([0.0, 1.0, -np.inf, -1.0]), np.array([1.0, np.inf, 2.0, 1.0])
    exact = [
        scipy.stats.truncexpon(rate, scale=1.0 / rate),
        scipy.stats.expon(loc=1.0, scale=1.0 / rate),
        _Mirrored(scipy.stats.expon(loc=-2.0, scale=1.0 / rate)),
        scipy.stats.uniform(-1.0, 2.0),
    ]
    initial = np.array([0.5, 1.5, 1.5, 0.0]) + 0.3 * np.random.default_rng(3).uniform(-1, 1, size=(chains, 4))
    return _known(build_target(_flat, _leaning, {"rate": rate}, lower, upper), exact, initial)


def _flat(data, u):
    return 0.0 * u.sum()


def _leaning(data, u):
    return data["rate"] * (u[2] - u[0] - u[1])


class _Mirrored:
    """The distribution of minus a variable."""

    def __init__(self, distribution):
        self.distribution = distribution

    def mean(self):
        return -self.distribution.mean()

    def std(self):
        return self.distribution.std()

    def ppf(self, q):
        return -self.distribution.ppf(1.0 - q)


class _Below:
    """A distribution, given that the variable is below an edge."""

    def __init__(self, distribution, edge):
        self.distribution, self.edge = distribution, edge

    def mean(self):
        return self.distribution.expect(ub=self.edge, conditional=True)

    def std(self):
        return np.sqrt(self.distribution.expect(lambda u: (u - self.mean()) ** 2, ub=self.edge, conditional=True))

    def ppf(self, q):
        return self.distribution.ppf(q * self.distribution.cdf(self.edge))


def _known(target: Target, exact: list, initial: np.ndarray) -> KnownTarget:
    truth = np.array([[d.mean(), d.std(), d.ppf(0.05), d.ppf(0.95)] for d in exact]).T
    return KnownTarget(target, *truth, initial)


def worst_error(position: np.ndarray, known: KnownTarget) -> float:
    """The largest error of means, standard deviations and 5 % and 95 % quantiles, in standard errors."""
    import arviz  # after the package, which silences what it says at import

    errors = []
    for k in range(position.shape[2]):
        draws = position[:, :, k]
        squares = (draws - draws.mean()) ** 2
        low_error, high_error = (arviz.mcse(draws, method="quantile", prob=p) for p in (0.05, 0.95))
        errors += [
            (draws.mean() - known.mean[k]) / _error_of_mean(draws),
            (draws.std() - known.sd[k]) / (_error_of_mean(squares) / (2.0 * draws.std())),
            (np.quantile(draws, 0.05) - known.low[k]) / low_error,
            (np.quantile(draws, 0.95) - known.high[k]) / high_error,
        ]
    return float(np.abs(errors).max())


def _error_of_mean(values: np.ndarray) -> float:
    import arviz

    # arviz.mcse, with numba installed, fails or gives an array under NumPy 2.4.
    return values.std() / np.sqrt(arviz.ess(values, method="mean"))

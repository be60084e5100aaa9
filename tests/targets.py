"""Analytic targets with known moments and quantiles, for the contract tests of samplers.

Each builder returns a `KnownTarget`. Builders of one kind make targets of one structure: other numbers, no
tracing.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.stats
from jax.tree_util import Partial

import kinbayes  # noqa: F401  (switches JAX to 64-bit floats)
from kinbayes.samplers.base import Target
from tests.proposals import student_t


class KnownTarget(NamedTuple):
    """A target with a proposal that is a little off, the truth about it, and a place to start from."""

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


def correlated_normal(
    observed: float = 1.5, correlation: float = 0.8, dim: int = 3, chains: int = 4, beta: float = 1.0
) -> KnownTarget:
    """Normal prior with equal correlations, and a normal measurement of its first entry, at a temperature."""
    prior_covariance = correlation * np.ones((dim, dim)) + (1 - correlation) * np.eye(dim)
    noise = 0.5
    data = {"precision": np.linalg.inv(prior_covariance), "observed": observed, "noise": noise}
    # The likelihood to the power of beta is that of noise of variance noise² / beta.
    gain = beta * prior_covariance[:, 0] / (beta * prior_covariance[0, 0] + noise**2)
    mean = gain * observed
    covariance = prior_covariance - np.outer(gain, prior_covariance[0])
    open_walls = np.full(dim, np.inf)
    exact = [scipy.stats.norm(m, s) for m, s in zip(mean, np.sqrt(np.diag(covariance)), strict=True)]
    initial = np.random.default_rng(1).normal(size=(chains, dim))
    target = build_target(_normal_prior, _first_measured, data, -open_walls, open_walls)
    return _known(target._replace(beta=jnp.asarray(beta)), exact, initial)


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


def in_a_corner(chains: int = 4) -> KnownTarget:
    """A normal of correlation 0.95 whose mean lies outside the unit square: a ridge that ends at two of its walls."""
    mean, sd, correlation = np.array([1.0, 1.2]), 0.5, 0.95
    covariance = sd**2 * np.array([[1.0, correlation], [correlation, 1.0]])
    data = {"mean": mean, "precision": np.linalg.inv(covariance)}

    def marginal(k):
        def density(value):
            other = mean[1 - k] + correlation * (value - mean[k])
            between = scipy.stats.norm(other, sd * np.sqrt(1 - correlation**2)).cdf
            return scipy.stats.norm.pdf(value, mean[k], sd) * (between(1.0) - between(0.0))

        return _Quadrature(density, 0.0, 1.0)

    initial = np.random.default_rng(4).uniform(0.6, 0.8, size=(chains, 2))
    target = build_target(_flat, _normal, data, np.zeros(2), np.ones(2))
    return _known(target, [marginal(0), marginal(1)], initial)


def _normal(data, u):
    return -0.5 * (u - data["mean"]) @ data["precision"] @ (u - data["mean"])


WEIGHT = 0.75  # of the second of two modes


def two_modes(chains: int = 4) -> KnownTarget:
    """A uniform prior on a square, and a likelihood of two normal modes 100 nats deep apart; all start in the first.

    They have unequal weights and widths, and a straight line between them is more than 20 widths long.
    """
    data = {
        "mean": np.array([[-5.0, -5.0], [5.0, 5.0]]),
        "sd": np.array([0.6, 0.4]),
        "weight": np.array([1 - WEIGHT, WEIGHT]),
    }
    components = [scipy.stats.norm(m, s) for m, s in zip((-5.0, 5.0), data["sd"], strict=True)]
    walls = np.full(2, 10.0)
    initial = np.random.default_rng(5).normal(-5.0, 0.6, size=(chains, 2))
    target = build_target(_flat, _mixture, data, -walls, walls)
    return _known(target, 2 * [_Mixture(components, data["weight"])], initial)


def _mixture(data, u):
    exponents = -0.5 * (((u - data["mean"]) / data["sd"][:, None]) ** 2).sum(axis=1)
    return jax.nn.logsumexp(exponents - 2.0 * jnp.log(data["sd"]), b=data["weight"])


def mostly_infeasible(chains: int = 4) -> KnownTarget:
    """A uniform prior on the unit square, of which a disc of a tenth is feasible; it leans to one side."""
    radius, slope = np.sqrt(0.1 / np.pi), 10.0
    data = {"centre": 0.5, "radius": radius, "slope": slope}

    def chord(value):
        return np.sqrt(np.maximum(radius**2 - (value - 0.5) ** 2, 0.0))

    exact = [
        _Quadrature(lambda value: np.exp(slope * value) * chord(value), 0.5 - radius, 0.5 + radius),
        _Quadrature(lambda value: np.sinh(slope * chord(value)), 0.5 - radius, 0.5 + radius),
    ]
    initial = np.random.default_rng(6).uniform(0.4, 0.6, size=(chains, 2))
    target = build_target(_flat, _inside_disc, data, np.zeros(2), np.ones(2))
    return _known(target, exact, initial)


def _inside_disc(data, u):
    is_inside = ((u - data["centre"]) ** 2).sum() < data["radius"] ** 2
    return jnp.where(is_inside, data["slope"] * u[0], -jnp.inf)


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


class _Mixture:
    """A mixture of distributions."""

    def __init__(self, components, weights):
        self.components, self.weights = components, weights

    def mean(self):
        return self._average(component.mean() for component in self.components)

    def std(self):
        squares = self._average(component.var() + component.mean() ** 2 for component in self.components)
        return np.sqrt(squares - self.mean() ** 2)

    def ppf(self, q):
        def excess(value):
            return self._average(component.cdf(value) for component in self.components) - q

        ends = [component.ppf(p) for component in self.components for p in (1e-9, 1 - 1e-9)]
        return scipy.optimize.brentq(excess, min(ends), max(ends))

    def _average(self, values):
        return sum(weight * value for weight, value in zip(self.weights, values, strict=True))


_GAUSS_POINTS, _GAUSS_WEIGHTS = np.polynomial.legendre.leggauss(100)


class _Quadrature:
    """A distribution on an interval, from a density without its constant: sums over Gauss points."""

    def __init__(self, density, lower, upper):
        self.density, self.lower, self.upper = density, lower, upper
        self.mass = self._integral(density, upper)

    def mean(self):
        return self._integral(lambda value: value * self.density(value), self.upper) / self.mass

    def std(self):
        mean = self.mean()
        return np.sqrt(self._integral(lambda value: (value - mean) ** 2 * self.density(value), self.upper) / self.mass)

    def ppf(self, q):
        def excess(value):
            return self._integral(self.density, value) / self.mass - q

        return scipy.optimize.brentq(excess, self.lower, self.upper)

    def _integral(self, function, end):
        half = (end - self.lower) / 2
        return half * (_GAUSS_WEIGHTS @ function(self.lower + half * (_GAUSS_POINTS + 1.0)))


def _known(target: Target, exact: list, initial: np.ndarray) -> KnownTarget:
    truth = np.array([[d.mean(), d.std(), d.ppf(0.05), d.ppf(0.95)] for d in exact]).T
    mean, sd, *_ = truth
    return KnownTarget(target._replace(proposal=student_t(mean + 0.2 * sd, 1.2 * sd)), *truth, initial)


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

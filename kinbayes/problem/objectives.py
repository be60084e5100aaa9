"""Objective functions: what an observable adds to the loss that an optimizer lowers.

Each function returns what an `Observable` takes as its `noise`. Those that are negative log likelihoods are measurement
densities under the names of fitting programs, constants kept, so that log likelihoods compare across models. The others
(`sos`, `sod`, `norm_sos`, `ave_norm_sos`) are no likelihoods: a problem with one can be fitted, but not sampled, since
nothing says how measurements scatter. A problem's log likelihood then holds minus their terms.
"""

from collections.abc import Callable

from kinbayes.problem import noise
from kinbayes.problem.families import MEAN, MEASUREMENT
from kinbayes.problem.noise import Noise


def chi_sq(sd: str | float) -> Noise:
    """Return normal noise of known standard deviation: (y - a)²/(2 sd²) + ln sd + ln(2π)/2.

    Parameters
    ----------
    sd
        A number, or `noiseParameter1_<observable>` where the data state one for every measurement.
    """
    return noise.normal(sd)


def chi_sq_dynamic(sd: str | float) -> Noise:
    """Return normal noise whose standard deviation is estimated: (y - a)²/(2 sd²) + ln sd + ln(2π)/2.

    Parameters
    ----------
    sd
        A parameter, or a formula of some.
    """
    return noise.normal(sd)


def sos() -> Noise:
    """Return the sum of squares, (y - a)²: no likelihood."""
    return Noise("sos", ("1",))


def sod() -> Noise:
    """Return the sum of absolute differences, |y - a|: no likelihood."""
    return Noise("sod", ())


def norm_sos() -> Noise:
    """Return the sum of squares relative to every measurement, ((y - a)/y)²: no likelihood. No y may be zero."""
    return Noise("norm_sos", (MEASUREMENT,))


def ave_norm_sos() -> Noise:
    """Return the sum of squares relative to the mean measurement, ((y - a)/mean(y))²: no likelihood.

    The mean is over all measurements of the observable in the experiment, and may not be zero.
    """
    return Noise("ave_norm_sos", (MEAN,))


def neg_bin(dispersion: str | float) -> Noise:
    """Return negative binomial counts around a mean a, with known r: -ln NB(y; r, r/(r + a))."""
    return noise.negative_binomial(dispersion)


def neg_bin_dynamic(dispersion: str | float) -> Noise:
    """Return negative binomial counts around a mean a whose r is estimated: -ln NB(y; r, r/(r + a))."""
    return noise.negative_binomial(dispersion)


def lognormal(sd: str | float) -> Noise:
    """Return log-normal noise: `sd` is the standard deviation of the natural logarithm."""
    return noise.log_normal(sd)


def laplace(scale: str | float) -> Noise:
    """Return Laplace noise: |y - a|/scale + ln(2 scale)."""
    return noise.laplace(scale)


def student_t(scale: str | float, degrees_of_freedom: str | float) -> Noise:
    """Return Student's t noise."""
    return noise.student_t(scale, degrees_of_freedom)


OBJECTIVES: dict[str, Callable[..., Noise]] = {
    "chi_sq": chi_sq,
    "chi_sq_dynamic": chi_sq_dynamic,
    "sos": sos,
    "sod": sod,
    "norm_sos": norm_sos,
    "ave_norm_sos": ave_norm_sos,
    "neg_bin": neg_bin,
    "neg_bin_dynamic": neg_bin_dynamic,
    "lognormal": lognormal,
    "laplace": laplace,
    "student_t": student_t,
}

"""The posterior in unconstrained space as machine code: walls and priors beside the native likelihood."""

import ctypes
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from kinbayes.model.expressions import ONE, ZERO, Expr, apply, derivatives, substitute, symbol, where
from kinbayes.model.llvm import Function, MachineCode, machine_code
from kinbayes.ode import host_density
from kinbayes.ode.host_density import Words
from kinbayes.ode.numbers import Numbers
from kinbayes.problem.log_prior import Form, density, forms, prior_data
from kinbayes.problem.parameters import Box, Parameter

_KEPT = 16  # structures whose machine code stays in memory
_COLUMNS = ("lower", "upper", "log mass")  # numbers of every parameter, before the settings of its prior


class NativePosterior(NamedTuple):
    """The log density of an unconstrained vector x as C functions, for samplers that call those.

    Attributes
    ----------
    dim
        Number of parameters.
    density
        Address of int64(uint64 dim, double* x, double* gradient, double* log_density, void* words), which returns 0,
        or a positive number where there is no density.
    expand
        Address of int64(uint64 dim, uint64 dim + 2, double* x, double* out, void* words), which writes the scaled
        vector, the log prior and log|du/dx|.
    words
        What the functions are handed: addresses, good for as long as this value lives.
    owner
        What those addresses belong to.
    box
        The walls of u.
    """

    dim: int
    density: int
    expand: int
    words: Int[np.ndarray, " words"]
    owner: tuple
    box: Box


class _Wall(NamedTuple):
    """A map from x to u: u, du/dx, log|du/dx| and the derivative of that."""

    u: Expr
    slope: Expr
    log_slope: Expr
    curvature: Expr


def native_posterior(parameters: Sequence[Parameter], likelihood: Numbers) -> NativePosterior:
    """Return the posterior of estimated parameters; nothing is compiled for a structure that is known.

    Parameters
    ----------
    parameters
        The estimated parameters, in the order of u.
    likelihood
        The numbers of the likelihood, with gradients; its parameters in the same order.
    """
    data = prior_data(parameters)
    bounds = np.stack([data.lower, data.upper, data.log_mass], axis=-1)
    walls = tuple((bool(low), bool(high)) for low, high in np.isfinite(bounds[:, :2]))
    code = _prior_code(forms(parameters), walls)
    numbers = np.concatenate([[*row, *_settings(p)] for p, row in zip(parameters, bounds, strict=True)])
    arrays = [np.ascontiguousarray(part) for part in (numbers, *likelihood)]
    numbers_at, code_at, ints_at, floats_at = (part.ctypes.data for part in arrays)
    words = Words(code.addresses["prior"], numbers_at, int(likelihood.code[0]), code_at, ints_at, floats_at)
    return NativePosterior(
        len(parameters),
        host_density.density.address,
        host_density.expand.address,
        np.array(words, dtype=np.int64),
        (code, arrays),
        Box(data.lower, data.upper),
    )


def value_and_grad(posterior: NativePosterior, x: Float[np.ndarray, " dim"]) -> tuple[float, Float[np.ndarray, " dim"]]:
    """Return the log density of an unconstrained vector and its gradient; -inf and zeros where there is none."""
    point, gradient, value = np.ascontiguousarray(x, dtype=np.float64), np.empty(posterior.dim), np.empty(1)
    function = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_uint64, *[ctypes.c_void_p] * 4)(posterior.density)
    function(posterior.dim, *(part.ctypes.data for part in (point, gradient, value, posterior.words)))
    return float(value[0]), gradient


def _settings(parameter: Parameter) -> tuple[float, ...]:
    prior = parameter.effective_prior
    return () if prior is None else prior.settings


@functools.lru_cache(maxsize=_KEPT)
def _prior_code(found: tuple[Form | None, ...], walls: tuple[tuple[bool, bool], ...]) -> MachineCode:
    """Compile what `Words` calls the prior, for prior forms and for which walls (lower, upper) there are.

    For every parameter the numbers are `_COLUMNS` and its prior's settings.
    """
    names, maps, log_priors, gradient = [], [], [], []
    for k, (form, sides) in enumerate(zip(found, walls, strict=True)):
        lower, upper, log_mass = numbers = [symbol(f"{column} {k}") for column in _COLUMNS]
        settings = [symbol(f"setting {k} {j}") for j in range(0 if form is None else form.num_settings)]
        wall = _wall(symbol(f"x {k}"), lower, upper, *sides)
        log_prior = ZERO if form is None else density(form, symbol("u"), settings)
        at_u = substitute([log_prior, *derivatives([log_prior], "u")], {"u": wall.u})
        names += [number.value for number in (*numbers, *settings)]
        maps.append(wall)
        log_priors.append(ZERO if form is None else at_u[0] - log_mass)
        gradient.append(at_u[1] * wall.slope + wall.curvature)
    total, volume = sum(log_priors, start=ZERO), sum((wall.log_slope for wall in maps), start=ZERO)
    outputs = [[wall.u for wall in maps], [wall.slope for wall in maps], [total, volume], gradient]
    return machine_code([Function("prior", [[f"x {k}" for k in range(len(found))], names], outputs)])


def _wall(x: Expr, lower: Expr, upper: Expr, has_lower: bool, has_upper: bool) -> _Wall:
    """Return the map of `parameters.constrain` for one parameter.

    Between two walls u is counted from the nearer one: it never leaves the box, and is exact close to either wall.
    """
    if has_lower and has_upper:
        tail = apply("exp", -apply("abs", x))
        part, width = tail / (1 + tail), upper - lower
        is_above = apply("ge", x, ZERO)
        return _Wall(
            where(is_above, upper - width * part, lower + width * part),
            width * part / (1 + tail),
            apply("log", width) - apply("abs", x) - 2 * apply("log", 1 + tail),
            apply("tanh", -x / 2),
        )
    distance = apply("exp", x)
    if has_lower:
        return _Wall(lower + distance, distance, x, ONE)
    if has_upper:
        return _Wall(upper - distance, -distance, x, ONE)
    return _Wall(x, ONE, ZERO, ZERO)

"""A posterior as a model of PyMC, or its likelihood as a part of one.

    model = kb.to_pymc(problem)
    with model:
        idata = pm.sample()

and where priors are to be more than one parameter's each, as in a hierarchy,

    with pm.Model():
        rate = pm.LogNormal("rate", mu, sigma)
        likelihood(problem, {"k": rate, "A_0": 10.0})

PyMC's samplers, its predictions and nutpie call the native engine, without Python in the loop. Everything can be
pickled, so chains may run in processes, forked or spawned: there the problem is compiled anew. A worker calls no JAX;
JAX warns of every fork all the same (`os.fork() was called`), which may be ignored here, or avoided by
`mp_ctx="spawn"`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from pymc.distributions.distribution import SymbolicRandomVariable
from pymc.logprob.abstract import _logprob
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.tensor.random.type import random_generator_type
from pytensor.tensor.variable import TensorVariable

from kinbayes.hosts import pymc_priors, pytensor_op
from kinbayes.hosts.pymc_steps import AdaptiveMetropolis, Dream, Metropolis, ParallelTempering
from kinbayes.problem.parameters import LOG_FACTORS
from kinbayes.problem.problem import Problem

__all__ = ["AdaptiveMetropolis", "Dream", "Metropolis", "ParallelTempering", "likelihood", "to_pymc"]


def to_pymc(problem: Problem, *, name: str = "measurements") -> pm.Model:
    """Return a problem's posterior as a model of PyMC.

    Every estimated parameter has a variable of its name, its natural value. A prior that was stated on natural values
    is that of this variable. One that was stated on the parameter's scale is that of `log10_<name>` or `ln_<name>`, and
    so is a log-uniform one; a log-Laplace one is that of `ln_<name>`. A parameter without a prior is uniform on its
    scale. Bounds truncate, and truncated priors are renormalised. So the posterior is the problem's, only that PyMC
    counts densities with respect to its own variables.

    Parameters
    ----------
    problem
        The problem, on the native engine.
    name
        The name of the observed variable; see `likelihood`.

    Raises
    ------
    ParameterError
        If a prior is improper.
    ValueError
        If two variables would have one name, or the engine is not the native one.
    """
    named = [name, *(n for parameter in problem.estimated for n in pymc_priors.names(parameter))]
    twice = sorted({n for n in named if named.count(n) > 1})
    if twice:
        raise ValueError(
            f"two variables would be named {twice}; give the measurements another `name`, or rename the parameters "
            "(the random variable of a parameter on a logarithmic scale is called log10_<name> or ln_<name>)"
        )
    with pm.Model() as model:
        values = {parameter.name: pymc_priors.random_variable(parameter) for parameter in problem.estimated}
        likelihood(problem, values, name=name)
    return model


def likelihood(
    problem: Problem, parameters: Mapping[str, TensorVariable | float], *, name: str = "measurements"
) -> TensorVariable:
    """Add a problem's measurements to the model whose context this is, given its parameters.

    The problem's priors and bounds play no role: its parameters are whatever is given, with gradients. Where one that
    moves on a logarithmic scale is not positive, or a simulation fails, the likelihood is 0. Predictions simulate and
    add measurement noise; they are NaN where a simulation fails, and none is censored.

    Parameters
    ----------
    problem
        The problem, on the native engine.
    parameters
        Estimated parameter -> its natural value, a scalar of PyMC or a number. All must be there.
    name
        The name of the observed variable (measurements,), in the order of the data. Its log likelihood, as
        `pm.compute_log_likelihood` computes it, is that of every measurement.

    Returns
    -------
    TensorVariable
        The observed variable.

    Raises
    ------
    ValueError
        If a parameter is missing or unknown, or no scalar; if the problem has no measurements or no likelihood; if the
        engine is not the native one; if constraints look at more than one time.
    """
    if not problem.is_likelihood:
        raise ValueError(problem.no_likelihood_because)
    if problem.is_grouped:
        raise ValueError(
            "PyMC calls the native kernel, outside which constraints that hold always, once or between two times are "
            "decided; use kb.to_numpyro or kb.sample, which take them, or state them ('at', time)"
        )
    if problem.engine != "native":
        raise ValueError(
            f"the engine is {problem.engine!r}, which PyMC cannot call; make the problem with engine='native', or use "
            "kb.to_numpyro, which takes both"
        )
    missing = [n for n in problem.parameter_names if n not in parameters]
    unknown = sorted(set(parameters) - set(problem.parameter_names))
    if missing or unknown:
        constants = [p.name for p in problem.parameters if not p.estimate and p.name in unknown]
        why = f" ({constants} are constants of the problem)" if constants else ""
        raise ValueError(f"missing parameters: {missing}, unknown names: {unknown}{why}")
    theta = [pt.as_tensor_variable(parameters[n]).astype("float64") for n in problem.parameter_names]
    no_scalars = {n: x.ndim for n, x in zip(problem.parameter_names, theta, strict=True) if x.ndim > 0}
    if no_scalars:
        raise ValueError(f"parameters must be scalars, but these have axes: {no_scalars}; index them, as in rate[0]")
    measured = np.array([m.value for m in problem.measurements])
    if np.isnan(measured).any():
        raise ValueError("the problem has measurements that are NaN, so it predicts and has no likelihood")

    variable = Kinetics.of(problem, theta)
    return pm.modelcontext(None).register_rv(variable, name, observed=measured)


class Kinetics(SymbolicRandomVariable):
    """What measurements of a problem are drawn from, given its parameters on their natural scale.

    The class is one of this module, not made for each variable: so a model that is unpickled in another process has its
    log density there.
    """

    _print_name = ("Kinetics", r"\operatorname{Kinetics}")

    @classmethod
    def of(cls, problem: Problem, theta: Sequence[TensorVariable]) -> TensorVariable:
        """Return measurements of a problem as a random variable (measurements,)."""
        inputs, rng = [value.type() for value in theta], random_generator_type()
        outputs = pytensor_op.draw_measurements(problem, rng, _scaled(inputs, problem.scale))
        signature = f"[rng],{','.join(['()'] * len(theta))}->[rng],(n)"
        op = cls([rng, *inputs], outputs, extended_signature=signature)
        op.problem = problem
        return op(pytensor.shared(np.random.default_rng()), *theta)

    def update(self, node: Apply) -> dict[Variable, Variable]:
        return {node.inputs[0]: node.outputs[0]}


@_logprob.register(Kinetics)
def _log_density(
    op: Kinetics, values: Sequence[TensorVariable], rng: Variable, *theta: TensorVariable, **settings: object
) -> TensorVariable:
    (value,) = values
    measured = [m.value for m in op.problem.measurements]
    if not isinstance(value, Constant) or not np.array_equal(value.data, measured):
        raise NotImplementedError(
            "the log density of measurements is known at those of the problem only; for others make another problem, "
            "by problem.with_data"
        )
    return pytensor_op.pointwise_log_likelihood(op.problem, _scaled(theta, op.problem.scale))


def _scaled(theta: Sequence[TensorVariable], scales: Sequence[str]) -> TensorVariable:
    """Return the scaled vector; NaN, where every simulation fails, for a logarithm of what is not positive."""
    entries = []
    for value, scale in zip(theta, scales, strict=True):
        if scale == "lin":
            entries.append(value)
            continue
        is_positive = value > 0
        # The logarithm sees a harmless argument where it is not taken, so that no derivative becomes NaN.
        logarithm = pt.log(pt.switch(is_positive, value, 1.0)) / LOG_FACTORS[scale]
        entries.append(pt.switch(is_positive, logarithm, np.nan))
    return pt.stack(entries)

"""The target made of a PyMC model must have PyMC's own log density, and compile nothing when values change."""

import jax
import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op

from kinbayes.hosts.pymc_target import conditional

pytestmark = pytest.mark.filterwarnings("ignore:PyTensor could not link to a BLAS")

RNG = np.random.RandomState(1)
COUNTS, OTHER_COUNTS = np.array([3.0, 1.0, 4.0]), np.array([2.0, 2.0, 7.0])


class Squares(Op):
    """A density that only Python knows."""

    __props__ = ()

    def make_node(self, x):
        return Apply(self, [pt.as_tensor(x)], [pt.dscalar()])

    def perform(self, node, inputs, output_storage):
        output_storage[0][0] = np.asarray(-np.sum(inputs[0] ** 2))


def model_of(density) -> pm.Model:
    """A model of a bounded, a vector and a discrete variable, data that may change, and a potential."""
    with pm.Model() as model:
        data = pm.Data("data", COUNTS)
        a = pm.Uniform("a", 0.5, 2.0)
        b = pm.Normal("b", a, 1.0, shape=3)
        z = pm.Bernoulli("z", 0.3)
        c = pm.Normal("c", 0.0, 1.0)
        pm.Normal("d", c, 1.0, observed=0.3)
        pm.Normal("y", b + z, a, observed=data)
        pm.Potential("p", density(b * a))
    return model


MODELS = {"jax": lambda x: -pt.sum(x**2), "callback": Squares()}


def points(model, n=4):
    start = model.initial_point()
    for k in range(n):
        yield {name: np.array(k % 2) if name == "z" else RNG.normal(size=v.shape) for name, v in start.items()}


@pytest.mark.parametrize("density", MODELS.values(), ids=MODELS)
def test_densities_are_those_of_pymc(density):
    model = model_of(density)
    own = [model.rvs_to_values[model[n]] for n in ("b", "a")]
    of_own = conditional(model, own, model.initial_point())
    assert of_own.others == ("z",)
    free = [model[n] for n in ("a", "b")]
    prior = model.compile_logp(vars=free)
    rest = model.compile_logp(vars=[model["y"], model["p"]])
    for point in points(model):
        u = np.concatenate([point[v.name].ravel() for v in own])
        target = of_own.target(4, [point["z"]], [v.get_value() for v in of_own.data])
        assert target.log_prior(u[None])[0] == pytest.approx(prior(point), rel=1e-12)
        assert target.log_likelihood(u[None])[0] == pytest.approx(rest(point), rel=1e-12)


@pytest.mark.parametrize("density", MODELS.values(), ids=MODELS)
def test_batches_of_batches(density):
    model = model_of(density)
    own = [model.rvs_to_values[model[n]] for n in ("a", "b")]
    of_own = conditional(model, own, model.initial_point())
    U, Z = RNG.normal(size=(2, 3, 4)), np.array([0, 1])
    data = [v.get_value() for v in of_own.data]
    found = jax.vmap(lambda z, U: of_own.target(4, [z], data).log_likelihood(U))(Z, U)
    expected = [
        [of_own.target(4, [z], data).log_likelihood(u[None])[0] for u in row] for z, row in zip(Z, U, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_new_values_compile_nothing():
    model = model_of(MODELS["jax"])
    own = [model.rvs_to_values[model["b"]]]
    of_own = conditional(model, own, model.initial_point())
    traces = []

    @jax.jit
    def log_likelihood(target, U):
        traces.append(U.shape)
        return target.log_likelihood(U)

    u, found = np.zeros((1, 3)), []
    for counts in (COUNTS, OTHER_COUNTS):
        model.set_data("data", counts)
        expected = model.compile_logp(vars=[model["y"], model["p"]])
        for point in points(model):
            values = [point[name] for name in of_own.others]
            data = [v.get_value() for v in of_own.data]
            found.append(float(log_likelihood(of_own.target(3, values, data), u)[0]))
            assert found[-1] == pytest.approx(expected(point | {"b": u[0]}), rel=1e-12)
    assert traces == [(1, 3)]
    assert len({*found}) == len(found)


@pytest.mark.parametrize("check_bounds", [True, False])
def test_a_parameter_out_of_its_bounds_has_no_density(check_bounds):
    with pm.Model(check_bounds=check_bounds) as model:
        sigma = pm.Normal("sigma", 0.0, 1.0)
        pm.Normal("y", 0.0, sigma, observed=1.0)
    target = conditional(model, model.value_vars, model.initial_point()).target(1, [], [])
    found = target.log_likelihood(np.array([[-1.0], [1.0]]))
    assert not found[0] > -np.inf
    assert found[1] == pytest.approx(-0.5 * (np.log(2 * np.pi) + 1))


def test_a_random_density_is_refused():
    with pm.Model() as model:
        mu = pm.Normal("mu", 0.0, 1.0)
        pm.Normal("y", mu, 1.0, observed=pm.Minibatch(np.arange(10.0), batch_size=3), total_size=10)
    with pytest.raises(ValueError, match="minibatches"):
        conditional(model, model.value_vars, model.initial_point())
    assert mu.name == "mu"

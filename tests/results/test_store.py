import arviz as az
import numpy as np
import pytest
import xarray as xr

import kinbayes
from kinbayes.results import mode_store, store
from kinbayes.results.attributes import AttributeValueError, attributes, encode, environment
from kinbayes.results.load import load

ATTRS = {
    "problem": "decay",
    "seed": 2**70,
    "converged": False,
    "evidence": None,
    "wall_time": np.float64(1.5),
    "num_simulations": np.int64(12),
    "settings": {"dense_mass": True, "limit": None, "rates": (0.1, np.float64(0.2)), "names": ["µ", ""]},
    "note": '{"not": json',
    "empty": "",
}
RESTORED = {
    "kinbayes_layout": 1,
    "problem": "decay",
    "seed": str(2**70),
    "converged": 0,
    "wall_time": 1.5,
    "num_simulations": 12,
    "settings": {"dense_mass": True, "limit": None, "rates": [0.1, 0.2], "names": ["µ", ""]},
    "note": '{"not": json',
    "empty": "",
}
PARAMETERS = store.ParameterTable(
    ("k", "y_0"), ("log10", "lin"), ("1/s", ""), ("LogUniform(1e-3, 1e3)", "Normal(0, 1)")
)
# The rows of the two observables are mixed, so that every grouping shows.
MEASUREMENTS = store.MeasurementTable(
    ("y", "z", "y", "y"),
    ("a", "a", "b", "a"),
    np.array([0.0, 1.0, 2.0, 3.0]),
    np.array([5.0, 6.0, 7.0, 8.0]),
    {"y": "yield (mg)"},
    "s",
)


@pytest.fixture
def sampled():
    rng = np.random.default_rng(0)
    shape = (2, 5)
    return store.posterior_data(
        PARAMETERS,
        MEASUREMENTS,
        draws=rng.normal(size=(*shape, 2)),
        sample_stats={
            "lp": rng.normal(size=shape),
            "acceptance_rate": rng.uniform(size=shape),
            "diverging": rng.uniform(size=shape) < 0.5,
            "n_steps": rng.integers(1, 9, size=shape),
        },
        log_likelihood=np.arange(40.0).reshape(*shape, 4),
        posterior_predictive=rng.normal(size=(*shape, 4)),
        prior=rng.normal(size=(3, 2)),
        prior_predictive=rng.normal(size=(3, 4)),
        attrs=ATTRS,
    )


@pytest.fixture
def optimized():
    return mode_store.map_data(
        PARAMETERS,
        MEASUREMENTS,
        estimates=np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
        statistics={
            "log_density": np.array([-1.0, -2.0, -np.inf]),
            "log_likelihood": np.array([-0.5, -1.5, -np.inf]),
            "log_prior": np.array([-0.5, -0.5, -0.5]),
            "converged": np.array([True, True, False]),
        },
        history={"loss": np.array([9.0, 1.0]), "evaluations": np.array([20, 40])},
        gradient=np.zeros(2),
        hessian=-np.eye(2),
        attrs=ATTRS,
    )


def test_posterior_groups_and_dimensions(sampled):
    assert set(sampled.groups()) == {
        "posterior", "sample_stats", "log_likelihood", "posterior_predictive", "prior", "prior_predictive",
        "observed_data", "constant_data",
    }  # fmt: skip
    assert sampled.posterior["k"].dims == ("chain", "draw")
    assert sampled.posterior["k"].attrs == {"scale": "log10", "unit": "1/s", "prior": "LogUniform(1e-3, 1e3)"}
    assert sampled.prior["k"].shape == (1, 3)
    assert sampled.prior_predictive["z"].shape == (1, 3, 1)
    assert sampled.sample_stats["diverging"].dtype == bool


def test_statistics_of_tempering_have_rungs_and_pairs(tmp_path):
    rng = np.random.default_rng(1)
    shape = (2, 5)
    likelihoods = rng.normal(size=(*shape, 3))
    likelihoods[0, 1, 0] = -np.inf  # a failed simulation
    ladder = {
        "beta": np.broadcast_to([0.0, 0.3, 1.0], (*shape, 3)),
        "rung_log_likelihood": likelihoods,
        "round_trips": np.arange(10).reshape(shape),
        "swap_rate": rng.uniform(size=(*shape, 2)),
    }
    idata = _stored({"lp": np.zeros(shape), "acceptance_rate": np.ones(shape)} | ladder)
    dims = {name: variable.dims[2:] for name, variable in idata.sample_stats.items()}
    rung, pair = ("rung",), ("pair",)
    assert dims == {
        "lp": (),
        "acceptance_rate": (),
        "beta": rung,
        "rung_log_likelihood": rung,
        "round_trips": (),
        "swap_rate": pair,
    }
    again = load(store.save(idata, tmp_path / "run.nc"))
    xr.testing.assert_identical(again.sample_stats, idata.sample_stats)
    assert again.sample_stats["round_trips"].dtype == np.int64
    assert again.sample_stats.sizes == {"chain": 2, "draw": 5, "rung": 3, "pair": 2}


@pytest.mark.parametrize(("name", "trailing"), [("beta", ()), ("lp", (3,)), ("swap_rate", (2, 2))])
def test_statistics_with_other_axes_are_refused(name, trailing):
    statistics = {"lp": np.zeros((2, 5)), "acceptance_rate": np.ones((2, 5)), name: np.ones((2, 5, *trailing))}
    with pytest.raises(store.StoreError, match=f"'{name}' has the shape"):
        _stored(statistics)


def _stored(statistics):
    return store.posterior_data(
        PARAMETERS,
        MEASUREMENTS,
        draws=np.zeros((2, 5, 2)),
        sample_stats=statistics,
        log_likelihood=np.zeros((2, 5, 4)),
        posterior_predictive=np.zeros((2, 5, 4)),
        attrs={},
    )


def test_measurements_are_grouped_by_observable(sampled):
    assert sampled.observed_data["y"].values.tolist() == [5.0, 7.0, 8.0]
    assert sampled.observed_data["y"].attrs["label"] == "yield (mg)"
    assert sampled.observed_data["z"].attrs["label"] == "z"
    assert sampled.observed_data["y_measurement"].values.tolist() == [0, 2, 3]
    assert sampled.constant_data["y_time"].values.tolist() == [0.0, 2.0, 3.0]
    assert sampled.constant_data["y_time"].attrs["unit"] == "s"
    assert sampled.constant_data["y_experiment"].values.tolist() == ["a", "b", "a"]
    assert sampled.log_likelihood["y"][0, 1].values.tolist() == [4.0, 6.0, 7.0]
    assert sampled.log_likelihood["z"][0, 1].values.tolist() == [5.0]


def test_map_groups(optimized):
    assert set(optimized.groups()) == {
        "map_estimate",
        "optimization_history",
        "curvature",
        "observed_data",
        "constant_data",
    }
    assert optimized.map_estimate["k"].dims == ("start",)
    assert optimized.map_estimate["y_0"].values.tolist() == [2.0, 4.0, 6.0]
    assert optimized.map_estimate["converged"].values.tolist() == [True, True, False]
    assert optimized.optimization_history["loss"].dims == ("iteration",)
    assert optimized.curvature["hessian"].sel(parameter="k", parameter_other="k") == -1.0


@pytest.fixture
def predicted():
    values = np.arange(6.0).reshape(2, 3)
    return store.prediction_data(
        np.array([0.0, 1.0, 2.0]),
        states={"A": values},
        observables={"y": values},
        predictions={"y": values + 1},
        time_unit="s",
        attrs=ATTRS,
    )


def test_prediction_groups(predicted):
    assert set(predicted.groups()) == {"states", "observables", "predictions"}
    assert predicted.predictions["y"].dims == ("chain", "draw", "time")
    assert predicted.predictions["y"].sel(time=1.0).values.tolist() == [[2.0, 5.0]]
    assert predicted.states.time.attrs["unit"] == "s"


@pytest.mark.parametrize("kind", ["sampled", "optimized", "predicted"])
def test_roundtrip(kind, request, tmp_path):
    idata = request.getfixturevalue(kind)
    path = store.save(idata, tmp_path / "run.nc")
    assert path == tmp_path / "run.nc"
    again = load(path)
    assert again.groups() == idata.groups()
    for group in idata.groups():
        xr.testing.assert_identical(again[group], idata[group])
    assert again.attrs == idata.attrs
    assert attributes(again) == RESTORED
    store.save(again, path)  # nothing holds the file
    assert [p.name for p in tmp_path.iterdir()] == ["run.nc"]


def test_arviz_writes_and_weighs_it(sampled, tmp_path):
    sampled.to_netcdf(str(tmp_path / "run.nc"))
    assert attributes(load(tmp_path / "run.nc")) == RESTORED
    pointwise = 0.01 * sampled.log_likelihood["y"]
    sampled.log_likelihood["y"] = pointwise
    expected = pointwise.var(dim=("chain", "draw")).sum().item()
    assert az.waic(sampled, var_name="y").p_waic == pytest.approx(expected)


def test_failed_save_leaves_nothing_and_spares_the_old_file(sampled, tmp_path):
    path = store.save(sampled, tmp_path / "run.nc")
    before = path.read_bytes()
    sampled.attrs["foreign"] = object()
    with pytest.raises(TypeError, match="foreign"):
        store.save(sampled, path)
    sampled.attrs.pop("foreign")
    sampled.posterior["k"].attrs["foreign"] = object()  # fails after part of the file was written
    with pytest.raises(TypeError, match="foreign"):
        store.save(sampled, path)
    assert [p.name for p in tmp_path.iterdir()] == ["run.nc"]
    assert path.read_bytes() == before
    with pytest.raises(FileNotFoundError, match="create it first"):
        store.save(sampled, tmp_path / "absent" / "run.nc")


def test_load_refuses_what_is_no_run(sampled, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.nc"):
        load(tmp_path / "absent.nc")
    text = tmp_path / "text.nc"
    text.write_text("time,measurement\n")
    with pytest.raises(store.StoreError, match="no readable NetCDF"):
        load(text)
    whole = store.save(sampled, tmp_path / "run.nc").read_bytes()
    (tmp_path / "cut.nc").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(store.StoreError, match="cut off"):
        load(tmp_path / "cut.nc")
    xr.Dataset({"a": 1}).to_netcdf(tmp_path / "foreign.nc", engine="h5netcdf")
    with pytest.raises(store.StoreError, match=r"arviz\.from_netcdf"):
        load(tmp_path / "foreign.nc")
    sampled.attrs["kinbayes_layout"] = 99
    with pytest.raises(store.StoreError, match="update kinbayes"):
        load(store.save(sampled, tmp_path / "newer.nc"))


def test_names_that_cannot_be_stored_are_refused(sampled):
    store.check_names(["k"], ["y", "z"])
    with pytest.raises(store.StoreError, match="draw"):
        store.check_names(["draw"], ["y"])
    with pytest.raises(store.StoreError, match="y_measurement"):
        store.check_names(["k"], ["y", "y_measurement"])
    with pytest.raises(store.StoreError, match="a/b"):
        store.check_names(["a/b"], ["y"])


def test_missing_statistics_and_foreign_attributes_are_refused():
    empty = np.zeros((1, 4, 4))
    with pytest.raises(store.StoreError, match="acceptance_rate"):
        store.posterior_data(
            PARAMETERS,
            MEASUREMENTS,
            draws=empty[..., :2],
            sample_stats={"lp": empty[..., 0]},
            log_likelihood=empty,
            posterior_predictive=empty,
            attrs={},
        )
    with pytest.raises(AttributeValueError, match=r"'settings'.*object"):
        encode({"settings": {"solver": object()}})


def test_environment():
    found = environment()
    assert found["versions"]["kinbayes"] == kinbayes.__version__
    assert {"python", "jax", "diffrax", "numpyro", "arviz", "numpy"} <= set(found["versions"])
    assert found["devices"]
    assert attributes(az.InferenceData(attrs=encode(found))) == found

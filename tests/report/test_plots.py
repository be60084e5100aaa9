import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from kinbayes.report import plots, style
from kinbayes.results import store

NAMES = ("k", "wide", "constant", "broken", "offset")
CHAINS, DRAWS = 2, 60


@pytest.fixture(scope="module")
def idata():
    """Five parameters, two observables in two experiments, one of them at a single time and in a steady state."""
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(CHAINS, DRAWS, 5))
    draws[..., 0] = np.exp(0.1 * draws[..., 0])
    draws[..., 1] = np.exp(3 * draws[..., 1])
    draws[..., 2] = 1.0
    draws[0, 0, 3] = np.nan
    times = np.array([0.0, 1.0, 1.0, 2.0] * 2 + [5.0, np.inf])
    values = np.array([1.0, 10.0, 11.0, 900.0] * 2 + [3.0, 4.0])
    predictive = values * np.exp(0.1 * rng.normal(size=(CHAINS, DRAWS, 10)))
    return store.posterior_data(
        store.ParameterTable(NAMES, ("log10", "log10", "lin", "lin", "lin"), ("1/s", "", "", "", ""), ("",) * 5),
        store.MeasurementTable(
            ("y",) * 8 + ("z",) * 2,
            ("a",) * 4 + ("b",) * 4 + ("a", "b"),
            times,
            values,
            {"y": "yield (mg)"},
            "s",
            ("", "below", "", "above") + ("",) * 6,
        ),
        draws=draws,
        sample_stats={
            "lp": draws[..., 0],
            "acceptance_rate": draws[..., 0],
            "diverging": rng.uniform(size=(CHAINS, DRAWS)) < 0.1,
        },
        log_likelihood=predictive,
        posterior_predictive=predictive,
        prior=np.abs(rng.normal(size=(50, 5))),
        attrs={"problem": "decay", "algorithm": "nuts", "converged": False},
    )


@pytest.mark.parametrize(
    ("plot_fn", "num_axes"),
    [(plots.plot_fit, 4), (plots.plot_posterior, 5), (plots.plot_trace, 5), (plots.plot_overview, 9)],
)
def test_every_figure_has_its_panels_and_no_state(plot_fn, num_axes, idata, tmp_path):
    figure = plot_fn(idata)
    assert isinstance(figure, Figure)
    assert len(figure.axes) == num_axes
    figure.savefig(tmp_path / "figure.png", dpi=40)
    assert "matplotlib.pyplot" not in vars(plots)
    assert matplotlib._pylab_helpers.Gcf.get_all_fig_managers() == []


def test_panels_say_what_they_show(idata):
    figure = plots.plot_fit(idata)
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["yield (mg), a", "yield (mg), b", "z, a", "z, b"]
    assert figure.axes[-1].get_xlabel() == "time (s)"
    assert [ax.get_yscale() for ax in figure.axes] == ["log", "log", "linear", "linear"]


def test_a_steady_state_stands_behind_the_last_time(idata):
    single, steady = plots.plot_fit(idata).axes[2:]
    assert [text.get_text() for text in steady.texts] == ["steady"]
    assert not single.texts
    for ax in (single, steady):
        assert all(np.all(np.isfinite(line.get_xdata())) for line in ax.lines)
        assert sum(line.get_ydata().size for line in ax.lines if line.get_marker() == "o") == 1


def test_limits_point_to_where_the_true_value_lies(idata):
    figure = plots.plot_fit(idata)
    drawn = {line.get_marker(): line.get_xydata().tolist() for line in figure.axes[0].lines}
    assert drawn["v"] == [[1.0, 10.0]]
    assert drawn["^"] == [[2.0, 900.0]]
    assert drawn["o"] == [[0.0, 1.0], [1.0, 11.0]]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[1:3] == ["below this limit", "above this limit"]


def test_marginals_follow_the_parameter(idata):
    axes = plots.plot_posterior(idata).axes
    assert [ax.get_title(loc="left") for ax in axes] == ["k (1/s)", "wide", "constant", "broken", "offset"]
    assert [ax.get_xscale() for ax in axes] == ["linear", "log", "linear", "linear", "linear"]
    assert [any("not finite" in t.get_text() for t in ax.texts) for ax in axes] == [
        False,
        False,
        True,
        True,
        False,
    ]


def test_overview_says_that_a_run_has_not_converged_and_what_it_leaves_out(idata):
    figure = plots.plot_overview(idata, max_fits=3, max_parameters=2)
    assert len(figure.axes) == 5
    assert "NOT CONVERGED" in figure.get_suptitle()
    above, below = figure.subfigs
    assert "3 of 4 shown" in above.get_suptitle()
    assert "2 of 5 shown" in below.get_suptitle()


def test_numbers_are_written_as_humans_do():
    assert [style.number(v) for v in (0.55, 123.4, 2.76e-5, -3.0)] == ["0.550", "123", "2.76×10⁻⁵", "−3.00"]

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scipy import stats

from kinbayes.report import map_plots
from kinbayes.results import mode_store
from tests.results.test_map_comparison import EVEN, MEASURED, SHAPES, found, sampled, table_of

NAMES = ("normal", "plateau", "uniform")
X = np.linspace(0, 1, 26)


def by_chance(shapes):
    """A sampling run of drawn values: ArviZ's kernel estimate divides by zero for evenly spaced ones."""
    rng = np.random.default_rng(0)
    draws = {name: np.quantile(values, rng.uniform(size=len(EVEN))) for name, values in shapes.items()}
    return sampled(draws, {name: rng.uniform(size=len(EVEN)) for name in shapes})


@pytest.fixture(scope="module")
def posterior():
    return by_chance({name: SHAPES[name] for name in NAMES})


@pytest.fixture(scope="module")
def mode():
    return found({"normal": 0.4, "plateau": 0.7, "uniform": 0.5}, log_density=(0.0, -5.0), converged=False)


@pytest.fixture(scope="module")
def profile():
    densities = [stats.norm(0.4, 0.05).logpdf, lambda x: stats.norm.logcdf((x - 0.3) / 0.03), np.zeros_like]
    log_density = np.stack([density(X) for density in densities])
    log_density -= log_density.max(axis=1, keepdims=True)
    log_density[log_density < -4] = np.nan
    shape = log_density.shape
    profiles = mode_store.Profiles(
        NAMES, ("lin",) * 3, ("1/s", "", ""), np.where(np.isnan(log_density), np.nan, X), log_density, 0 * log_density,
        np.tile(X > 0.2, (3, 1)), np.zeros((*shape, 3)), np.array([("drop",) * 2, ("drop", "wall"), ("wall",) * 2]),
    )  # fmt: skip
    walls = {"lower_wall": np.zeros(3), "upper_wall": np.ones(3)}
    attrs = {"drop": 3.32, "problem_hash": "abc"}
    return mode_store.profile_data(table_of(NAMES), MEASURED, profiles, intervals=walls, attrs=attrs)


@pytest.fixture(scope="module")
def laplace():
    return mode_store.laplace_data(
        table_of(NAMES), MEASURED, draws=np.ones((1, 5, 3)), sample_stats={"lp": np.zeros((1, 5))},
        mode=np.array([0.4, 0.7, 0.5]), hessian=-400 * np.eye(3), covariance=np.eye(3) / 400,
        attrs={"problem_hash": "abc"},
    )  # fmt: skip


def texts(ax):
    return [text.get_text() for text in ax.texts]


def lines(ax, color):
    return [line for line in ax.lines if to_hex(line.get_color()) == color.lower()]


def test_every_figure_is_free_of_state(mode, posterior, profile, laplace, tmp_path):
    figures = [
        map_plots.plot_compare(mode, posterior, profile, laplace),
        map_plots.plot_profiles(profile, posterior),
        map_plots.plot_waterfall(mode),
    ]
    for k, figure in enumerate(figures):
        assert isinstance(figure, Figure)
        figure.savefig(tmp_path / f"{k}.png", dpi=40)
    assert matplotlib._pylab_helpers.Gcf.get_all_fig_managers() == []


def test_rows_tell_verdicts_in_words(mode, posterior, profile):
    within, ends = map_plots.plot_compare(mode, posterior, profile).axes
    assert [text for text in texts(within) if text in NAMES] == list(NAMES)
    assert [text for text in texts(ends) if text in map_plots._VERDICT] == ["identified", "one-sided", "not identified"]
    assert any(text.startswith("no upper limit") for text in texts(ends))
    assert not any("no lower limit" in text for text in texts(ends))


def test_open_ends_have_arrows(mode, posterior, profile):
    _, ends = map_plots.plot_compare(mode, posterior, profile).axes
    rows = [(round(line.get_ydata()[0]), line.get_marker()) for line in lines(ends, map_plots._PROFILE)]
    assert [row for row in rows if row[1] in "<>"] == [(1, ">"), (2, "<"), (2, ">")]
    assert sum(marker == "|" for _, marker in rows) == 3


def test_only_what_is_given_is_drawn(mode, posterior, laplace):
    _, ends = map_plots.plot_compare(mode, posterior).axes
    assert not lines(ends, map_plots._PROFILE)
    assert not lines(ends, map_plots._LAPLACE)
    figure = map_plots.plot_compare(mode, posterior, laplace=laplace)
    assert lines(figure.axes[1], map_plots._LAPLACE)
    assert "profile interval" not in [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_posterior_lies_within_the_prior(mode, posterior):
    within, _ = map_plots.plot_compare(mode, posterior).axes
    dots = [line for line in within.lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in dots] == pytest.approx([0.4, 0.7, 0.5], abs=1e-3)
    for line in lines(within, map_plots._POSTERIOR):
        assert 0 <= line.get_xdata().min() <= line.get_xdata().max() <= 1


def test_profiles_show_level_interval_and_walls(profile, posterior):
    figure = map_plots.plot_profiles(profile, posterior)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["normal (1/s)", "plateau", "uniform"]
    walls = [len(lines(ax, map_plots.INK)) - 1 for ax in figure.axes]  # the mode is of the same colour
    assert walls == [0, 1, 2]
    normal = figure.axes[0]
    (shaded,) = normal.patches
    half = 0.05 * stats.norm.ppf(0.975)
    assert (shaded.get_x(), shaded.get_width()) == pytest.approx((0.4 - half, 2 * half), abs=2e-3)
    (level,) = [line for line in normal.lines if line.get_linestyle() == "--" and len(set(line.get_ydata())) == 1]
    assert level.get_ydata()[0] == pytest.approx(-1.9207, abs=1e-4)
    hollow = [line for line in figure.axes[2].lines if line.get_markerfacecolor() == "white" and len(line.get_xdata())]
    assert hollow[0].get_xdata().max() <= 0.2
    assert len(lines(map_plots.plot_profiles(profile).axes[0], map_plots._POSTERIOR)) == 0


def test_waterfalls_are_sorted_and_say_what_they_count():
    mode = found({"k": 1.0}, log_density=(-3.0, 0.0), converged=False)
    ax = map_plots.plot_waterfall(mode).axes[0]
    assert ax.get_yscale() == "log"
    assert ax.get_title(loc="left") == "1 of 2 searches within 0.1 of the best"
    words = {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}
    assert words["converged"].get_xydata().tolist() == [[1.0, map_plots._NEAREST]]
    assert words["not converged"].get_xydata().tolist() == [[2.0, 3.0]]


def test_searches_without_a_density_are_counted():
    mode = found({"k": 1.0}, log_density=(0.0, -np.inf))
    title = map_plots.plot_waterfall(mode).axes[0].get_title(loc="left")
    assert title == "1 of 2 searches within 0.1 of the best; 1 without a density"


def test_many_parameters_stay_apart():
    names = [f"k{n}" for n in range(22)]
    run = by_chance({name: 0.5 + 0.05 * stats.norm.ppf(EVEN) for name in names})
    figure = map_plots.plot_compare(found(dict.fromkeys(names, 0.5)), run)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts if text.get_text() in names]
    tops, bottoms = [box.y1 for box in boxes[1:]], [box.y0 for box in boxes[:-1]]
    assert all(top < bottom for top, bottom in zip(tops, bottoms, strict=True))

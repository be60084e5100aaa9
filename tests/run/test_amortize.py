"""From a problem to a learned proposal that samples it."""

import numpy as np
import pytest

import kinbayes as kb
from kinbayes.results.attributes import attributes
from kinbayes.run.amortized_evaluation import evaluate_proposal

SETTINGS = {"num_layers": 2, "hidden": 16}


@pytest.fixture(scope="module")
def problem():
    return kb.read_petab(kb.example("conversion_reaction"))


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return tmp_path_factory.mktemp("amortize") / "archive.zarr"


@pytest.fixture(scope="module")
def proposal(problem, archive):
    return kb.amortize(
        problem, archive=archive, network="flow", settings=SETTINGS, max_evaluations=6000, max_points=2000, epochs=20,
        progress=False,
    )  # fmt: skip


def test_an_archive_is_made_where_there_is_none(problem, archive, proposal):
    with kb.read_archive(archive) as opened:
        assert 5000 < len(opened) <= 6100
        assert [run.algorithm for run in opened.runs] == ["scatter_search", "multistart", "dream"]
    facts = proposal.training
    assert 0 <= facts["archived"] - facts["feasible"] - facts["failed"] < 50  # points that were evaluated twice
    assert facts["points"] == 2000
    assert len(proposal.history.train.loss) == 20


def test_it_samples_the_posterior(problem, proposal):
    found = kb.sample(problem, "amortized", proposal=proposal, draws=500, warmup=100, progress=False)
    assert attributes(found)["rung"] in ("importance", "i-SIR")
    # The closed form of the example's README, within five standard errors of 400 draws or more.
    for name, mean, sd in (("A_0", 9.976119, 0.243), ("B_0", 0.912122, 0.243)):
        draws = found.posterior[name].values
        assert abs(draws.mean() - mean) < 5 * draws.std() / np.sqrt(400)
        assert draws.std() == pytest.approx(sd, rel=0.5)


def test_the_condition_is_the_one_that_is_worth_most(proposal):
    shares = {k: v for k, v in proposal.training.items() if k.startswith("effective_share_at_")}
    best = max(shares, key=shares.get)
    assert best == f"effective_share_at_{proposal.condition:g}"
    assert shares[best] > 0.2


def test_the_archive_and_the_seed_say_the_proposal(problem, archive, proposal):
    again = kb.amortize(
        problem, archive=archive, network="flow", settings=SETTINGS, max_points=2000, epochs=20, progress=False,
        condition=proposal.condition,
    )  # fmt: skip
    assert again.generate(0, 5).U.tobytes() == proposal.generate(0, 5).U.tobytes()


def test_everything_about_it_is_measured(problem, archive, proposal):
    found = evaluate_proposal(problem, proposal, archive, num=50, starts=5)
    assert found.numbers["feasible share at condition 0"] == 1.0
    assert found.numbers["Spearman of asked and achieved"] > 0.1
    assert set(found.starts.losses) == {"generated", "latin_hypercube", "random", "multi_jittered", "archive_best"}
    # One optimum, in closed form, that all searches find.
    assert (found.starts.losses.max() - found.starts.losses.min(axis=None) < 1e-3).all()
    assert (found.starts.optima.iloc[-1] == 1).all()
    np.testing.assert_allclose(found.starts.differences["median"], 0.0, atol=1e-3)


def test_unknown_networks_and_settings_are_refused(problem):
    with pytest.raises(ValueError, match=r"unknown network 'gan'; choose from \['ccgan', "):
        kb.amortize(problem, network="gan")
    with pytest.raises(ValueError, match=r"unknown settings \['breadth'\] of 'flow'"):
        kb.amortize(problem, network="flow", settings={"breadth": 3})

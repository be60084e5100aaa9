"""Sampling with a proposal, rung by rung, against a posterior on a grid."""

import dataclasses
import math

import arviz as az
import numpy as np
import pytest

import kinbayes as kb
from kinbayes.results.attributes import attributes
from kinbayes.results.checkpoint import CheckpointError
from kinbayes.results.importance import importance
from kinbayes.run import saving
from kinbayes.run.choice import chosen
from kinbayes.run.ladder import RUNGS, judged_rung, max_k_hat
from kinbayes.run.resume import resume
from kinbayes.run.starts.chain_starts import StartError
from kinbayes.run.weighted import (
    Weighted,
    by_chain,
    distinct_starts,
    evidence_of_weights,
    refresh_rate,
    run_weighted,
)
from tests import proposals, targets
from tests.calibration import table

MEAN, SD = np.array([10.0, 1.0]), np.array([0.6, 0.6])  # about those of the posterior
SIZE = {"draws": 500, "warmup": 200, "seed": 1, "progress": False}
SMALL = {"draws": 40, "warmup": 20, "chains": 2, "seed": 3, "progress": False}
PILOT = {"num_pilot": 256}


@pytest.fixture(scope="module")
def problem():
    """A conversion of two parameters, their initial concentrations."""
    return kb.read_petab(kb.example("conversion_reaction"))


class Grid:
    """A marginal posterior from its densities at equal distances."""

    def __init__(self, points, density):
        self.points, self.mass = points, density / density.sum()

    def mean(self):
        return self.mass @ self.points

    def std(self):
        return np.sqrt(self.mass @ (self.points - self.mean()) ** 2)

    def ppf(self, p):
        centred = np.cumsum(self.mass) - self.mass / 2
        return np.interp(p, centred, self.points)


@pytest.fixture(scope="module")
def exact(problem):
    """The posterior's moments and quantiles, and its log evidence."""
    axes = [mean + np.linspace(-6, 6, 128) * sd for mean, sd in zip(MEAN, SD, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    found = problem.evaluate(points.reshape(-1, 2))
    log_density = (found.log_prior + found.log_likelihood).reshape(points.shape[:2])
    density = np.exp(log_density - log_density.max())
    marginals = [Grid(axis, density.sum(axis=1 - k)) for k, axis in enumerate(axes)]
    truth = np.array([[d.mean(), d.std(), d.ppf(0.05), d.ppf(0.95)] for d in marginals]).T
    cell = np.prod([axis[1] - axis[0] for axis in axes])
    return targets.KnownTarget(None, *truth, None), np.log(density.sum() * cell) + log_density.max()


def good():
    return proposals.student_t(MEAN + 0.2 * SD, 1.2 * SD)


def latent(*, is_exact=True):
    return proposals.latent(proposals.untrained(MEAN, SD, seed=5), 1, is_exact=is_exact)


PROPOSALS = {
    "importance": good(),
    "i-SIR": proposals.uniform([0.0, -5.0], [20.0, 15.0]),
    "local": proposals.uniform([-100.0, -100.0], [100.0, 100.0]),
}


def sampled(problem, proposal, **settings):
    given = {"settings": settings} | SIZE
    return kb.sample(problem, "amortized", proposal=proposals.handmade(problem, proposal), **given)


@pytest.fixture(scope="module", params=RUNGS)
def rung_run(request, problem):
    return request.param, sampled(problem, PROPOSALS[request.param])


def draws_of(idata):
    return np.stack([idata.posterior[name].values for name in ("A_0", "B_0")], axis=-1)


# ---- the posterior


def test_every_rung_draws_from_the_posterior(rung_run, exact):
    name, idata = rung_run
    known, _ = exact
    found = attributes(idata)
    assert found["rung"] == name
    assert found["converged"] == 1, found["not_converged_because"]
    assert targets.worst_error(draws_of(idata), known) < 5
    shifted = known._replace(mean=known.mean + 0.4 * known.sd)
    assert targets.worst_error(draws_of(idata), shifted) > 5


def test_a_result_says_what_its_proposal_was_worth(rung_run, problem):
    name, idata = rung_run
    found = attributes(idata)
    assert found["algorithm"] == "amortized"
    assert found["proposal_hash"] == "handmade"
    assert found["proposal_problem_hash"] == problem.hash
    assert f"k-hat of {found['weighted_draws']} weights is" in found["rung_because"]
    assert "another problem" not in found["rung_because"]
    assert found["settings"]["rung"] == "auto"
    assert found["settings"]["local"] == "adaptive_metropolis"
    weighted = found["simulations_of_weights"]
    assert 0.9 * found["weighted_draws"] < weighted <= found["weighted_draws"]
    chains = 4 * (SIZE["draws"] + SIZE["warmup"])
    assert found["simulations"] == weighted + {"importance": 0, "i-SIR": 4 * (7 + 2), "local": 4 * 2}[name] * chains
    assert ("log_evidence" in found) == (name == "importance")
    assert ("no_evidence_because" in found) == (name != "importance")
    assert ("refresh_rate" in idata.sample_stats) == (name == "i-SIR")
    if name == "i-SIR":
        assert float(idata.sample_stats["refresh_rate"].mean()) == pytest.approx(
            found["expected_refresh_rate"], rel=0.5
        )


@pytest.mark.slow
def test_an_untrained_network_gives_the_posterior(problem, exact):
    known, _ = exact
    settings = {"rung": "i-SIR", "num_candidates": 16, "local_steps": 1}
    idata = sampled(problem, latent(), **settings)
    assert float(idata.sample_stats["refresh_rate"].mean()) > 0.1
    assert targets.worst_error(draws_of(idata), known) < 5
    biased = sampled(problem, latent(is_exact=False), **settings)
    assert targets.worst_error(draws_of(biased), known) > 5


def test_weights_give_the_evidence(problem, exact):
    _, log_evidence = exact
    found = attributes(sampled(problem, good()))
    assert found["log_evidence_error"] < 0.05
    assert abs(found["log_evidence"] - log_evidence) < 5 * found["log_evidence_error"]
    # Negative control: a prior of one more parameter.
    assert abs(found["log_evidence"] - log_evidence + np.log(8)) > 5 * found["log_evidence_error"]


def test_new_data_need_no_new_proposal(problem):
    data = table(problem)
    other = problem.with_data(data.assign(measurement=data["measurement"] + 0.1))
    source = proposals.handmade(problem, good())
    found = attributes(kb.sample(other, "amortized", proposal=source, settings=PILOT, **SMALL))
    assert found["proposal_problem_hash"] == problem.hash != found["problem_hash"]
    assert f"learned on another problem of these parameters ({problem.hash[:12]})" in found["rung_because"]


# ---- weighted draws


def normal_weights(size, sd, seed=0):
    """Draws of a normal that is too wide by a factor, with their weights towards a standard one."""
    rng = np.random.default_rng(seed)
    u = sd * rng.normal(size=(size, 1))
    log_weight = (-0.5 * u**2 + 0.5 * (u / sd) ** 2 + np.log(sd))[:, 0]
    return Weighted(u, 0 * log_weight, 0 * log_weight, log_weight)


@pytest.mark.parametrize("sd", [1.5, 8.0])
def test_the_effective_sample_size_of_weighted_draws_knows_of_copies(sd):
    drawn = normal_weights(4000, sd)
    found = importance(drawn.log_weight)
    run = run_weighted(initial=by_chain(drawn, found, 4), num_warmup=0, num_draws=1000, seed=0)
    assert run.position.shape == (4, 1000, 1)
    assert run.diagnostics[-1].max_rhat < 1.02
    # To the mean of a normal, draws in the middle matter less, and they have the larger weights.
    worth = 1 / np.sum((np.exp(found.log_weights) * drawn.position[:, 0]) ** 2)
    ess = az.ess(run.position[..., 0], method="mean")
    assert 0.5 * worth < ess < 1.3 * worth
    error = 1 / np.sqrt(min(worth, ess))
    assert abs(run.position.mean()) < 5 * error
    assert abs((run.position**2).mean() - 1) < 5 * np.sqrt(2) * error
    # No chain has a draw of another.
    values = [set(chain[:, 0]) for chain in run.position]
    assert sum(map(len, values)) == len(set.union(*values))
    np.testing.assert_allclose(run.info["acceptance_rate"].mean(), found.effective_share, rtol=0.1)


def test_the_mean_weight_is_the_evidence():
    errors = []
    for seed in range(100):
        value, error = evidence_of_weights(normal_weights(400, 2.0, seed).log_weight + 3.0)
        errors.append((value - 3.0) / error)
    assert 0.6 < np.std(errors) < 1.5  # the error is one standard error
    failed = np.append(normal_weights(400, 2.0).log_weight, np.full(400, -np.inf))
    assert evidence_of_weights(failed).value == pytest.approx(
        evidence_of_weights(normal_weights(400, 2.0).log_weight).value - np.log(2)
    )


def test_the_expected_refresh_rate():
    rng = np.random.default_rng(0)
    assert refresh_rate(np.zeros(100), 8, rng) == pytest.approx(7 / 8)
    one = np.append(np.zeros(999), 50.0)
    assert refresh_rate(one, 8, rng) < 1e-15
    half = np.append(np.full(500, -np.inf), np.zeros(500))
    candidates = np.arange(8)
    share = np.exp(
        [np.log(float(np.prod(range(7, 7 - k, -1))) / np.prod(range(1, k + 1))) - 7 * np.log(2) for k in candidates]
    )
    exact = share @ (candidates / (candidates + 1))
    assert refresh_rate(half, 8, rng) == pytest.approx(exact, abs=5 * 0.2 / 64)


def test_starts_are_drawn_by_weight_and_differ():
    drawn = normal_weights(500, 2.0)
    found = importance(drawn.log_weight)
    starts = distinct_starts(drawn, found, 100, np.random.default_rng(0))
    assert len(np.unique(starts)) == 100
    assert 0.7 < starts.std() < 1.4
    few = drawn._replace(log_weight=np.where(np.arange(500) < 3, 0.0, -np.inf))
    repeated = distinct_starts(few, importance(few.log_weight), 7, np.random.default_rng(0))
    assert set(repeated[:, 0]) == set(drawn.position[:3, 0])


def test_the_rung_follows_the_weights():
    assert max_k_hat(4096) == 0.7
    assert max_k_hat(100) == pytest.approx(0.5)
    fine = importance(normal_weights(4000, 1.5).log_weight)
    per_draw = math.ceil(1 / fine.effective_share)
    assert judged_rung(fine, 0.9, per_draw)[0] == "importance"
    assert judged_rung(fine, 0.9, per_draw - 1)[0] == "i-SIR"  # a step of which may be worth a draw for less
    heavy = fine._replace(k_hat=0.71)
    for rate, rung in ((0.5, "i-SIR"), (0.02, "i-SIR"), (0.019, "local")):
        found, why = judged_rung(heavy, rate, 100)
        assert found == rung
        assert "k-hat of 4000 weights is 0.71 (limit 0.70)" in why


# ---- what is asked for


def test_a_rung_that_weights_forbid_is_not_converged(problem):
    found = attributes(sampled(problem, PROPOSALS["i-SIR"], rung="importance", num_pilot=256))
    assert found["rung_because"] == "it was asked for"
    assert found["converged"] == 0
    assert any("few of" in why and "k-hat is" in why for why in found["not_converged_because"])


def test_starts_may_be_given(problem):
    source = proposals.handmade(problem, PROPOSALS["local"])
    given = {"proposal": source, "settings": PILOT | {"rung": "local"}} | SMALL
    assert attributes(kb.sample(problem, "amortized", **given))["initial"].startswith("draws of the proposal")
    assert attributes(kb.sample(problem, "amortized", initial="nominal", **given))["initial"].startswith("the nominal")


def test_a_proposal_without_a_density_anywhere_is_told(problem):
    beyond = proposals.uniform([101.0, 101.0], [102.0, 102.0])
    with pytest.raises(StartError, match="none of 256 draws of the proposal has a density: start elsewhere"):
        sampled(problem, beyond, num_pilot=256)
    with pytest.raises(StartError, match="so there is nothing to weigh"):
        sampled(problem, beyond, num_pilot=256, rung="importance")


def test_what_cannot_be_used_is_refused(problem):
    source = proposals.handmade(problem, good())
    other = dataclasses.replace(source, parameter_names=("B_0", "A_0"))
    with pytest.raises(ValueError, match="draws from a learned proposal; give it as proposal="):
        kb.sample(problem, "amortized")
    with pytest.raises(
        ValueError, match=r"of the parameters \['B_0', 'A_0'\], and the problem estimates \['A_0', 'B_0'\]"
    ):
        kb.sample(problem, "amortized", proposal=other)
    for name in ("nuts", "auto"):
        with pytest.raises(ValueError, match=f"'{name}' has no use for a proposal"):
            kb.sample(problem, name, proposal=source)
    with pytest.raises(ValueError, match="unknown inner sampler 'amortized'"):
        kb.sample(problem, "parallel_tempering", settings={"inner": "amortized"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rung": "top"}, r"unknown rung 'top' of 'amortized'; choose from \['auto', 'importance', 'i-SIR', 'local'\]"),
        ({"num_pilot": 10}, "'num_pilot' of 'amortized' is 10; it must be a whole number from 100"),
        ({"local": "nuts"}, "unknown local sampler 'nuts' of 'amortized'"),
        ({"local_settings": 3}, "local_settings is 3; give a mapping"),
        ({"local_settings": {"steps": 3}}, r"unknown settings \['steps'\] of 'adaptive_metropolis'"),
        ({"candidates": 3}, r"unknown settings \['candidates'\] of 'amortized'"),
        ({"num_candidates": 0.5}, "'num_candidates' of 'amortized' is 0.5; it must be a whole number"),
    ],
)
def test_senseless_settings_are_refused(problem, settings, message):
    with pytest.raises(ValueError, match=message):
        chosen(problem, "amortized", settings, None, proposals.handmade(problem, good()))


def test_weighted_draws_keep_to_the_simulations_allowed(problem):
    source = proposals.handmade(problem, good())
    found = attributes(kb.sample(problem, "amortized", proposal=source, max_simulations=9000, **SIZE))
    assert found["rung"] == "importance"
    assert found["weighted_draws"] == 8192  # of some 10,000 that would be worth as many draws as are kept
    assert found["simulations"] <= 9000


# ---- checkpoints and archives


@pytest.mark.parametrize("rung", ["i-SIR", "local"])
def test_an_interrupted_run_goes_on_bit_for_bit(problem, rung, tmp_path, monkeypatch):
    source = proposals.handmade(problem, PROPOSALS["i-SIR"])
    given = {"proposal": source, "settings": PILOT | {"rung": rung}} | SMALL
    whole = kb.sample(problem, "amortized", **given)
    monkeypatch.setattr(saving, "PAUSE", 0.0)
    path = tmp_path / "run.zarr"
    kb.sample(problem, "amortized", checkpoint=path, **(given | {"draws": 10}))
    again = kb.sample(problem, "amortized", checkpoint=path, resume=True, **given)
    assert attributes(again)["rung"] == rung
    np.testing.assert_array_equal(draws_of(again), draws_of(whole))
    named = dataclasses.replace(source, hash="another")
    with pytest.raises(CheckpointError, match="was begun with proposal 'handmade', not 'another'"):
        kb.sample(problem, "amortized", checkpoint=path, resume=True, **(given | {"proposal": named}))
    with pytest.raises(CheckpointError, match="draws from a learned proposal, handmade, which it does not hold"):
        resume(path, lambda **tolerances: problem)


def test_weighted_draws_leave_a_checkpoint_and_an_archive(problem, tmp_path):
    from kinbayes.amortized.archive import read_archive

    source = proposals.handmade(problem, good())
    given = {"proposal": source, "settings": PILOT | {"rung": "importance"}, "keep_warmup": True} | SMALL
    path, archive = tmp_path / "run.zarr", tmp_path / "archive.zarr"
    first = kb.sample(problem, "amortized", checkpoint=path, archive=archive, **given)
    again = kb.sample(problem, "amortized", checkpoint=path, resume=True, **given)
    np.testing.assert_array_equal(draws_of(first), draws_of(again))
    np.testing.assert_array_equal(draws_of(first), draws_of(kb.load(path)))
    with pytest.raises(CheckpointError, match="has 40 of 50 draws that were resampled by weight"):
        kb.sample(problem, "amortized", checkpoint=path, resume=True, **(given | {"draws": 50}))
    assert len(read_archive(archive)) == attributes(first)["simulations"]


def test_the_same_seed_gives_the_same_draws(problem):
    source = proposals.handmade(problem, good())
    runs = [
        kb.sample(problem, "amortized", proposal=source, settings=PILOT, **(SMALL | {"seed": seed}))
        for seed in (3, 3, 4)
    ]
    first, again, other = map(draws_of, runs)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)

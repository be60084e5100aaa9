"""Every sentence of a verdict: said where it is due, and not where it is not."""

import numpy as np
import pytest

from kinbayes.results.attributes import encode
from kinbayes.results.summary import diagnostics
from kinbayes.results.verdict import cautions, converged
from tests.results.runs import CHAINS, DRAWS, EVEN, run, shuffled

GOOD = shuffled(EVEN)
NEVER = np.zeros((CHAINS, DRAWS), dtype=bool)
NORMAL = np.random.default_rng(5).normal(size=(CHAINS, DRAWS))


def good(**statistics):
    return run({"k": GOOD}, statistics=statistics)


def test_independent_draws_converge():
    idata = good(diverging=NEVER, lp=NORMAL, energy=NORMAL, tree_depth=np.full((CHAINS, DRAWS), 3))
    assert converged(idata) == (True, [])
    assert cautions(idata) == []
    assert diagnostics(idata).loc["k", "ess_bulk"] > 0.8 * CHAINS * DRAWS


def test_each_broken_rule_is_named():
    apart = GOOD + np.array([0, 0, 0, 0.3])[:, None]
    slow = np.repeat(GOOD[:, ::20], 20, axis=1)
    diverging = NEVER.copy()
    diverging[0, :5] = True
    cases = {
        "chains disagree": run({"fine": GOOD, "k": apart}),
        "independent draws": run({"fine": GOOD, "k": slow}),
        "5 of 4000 draws diverged": good(diverging=diverging),
        "one chain": run({"k": GOOD[:1]}),
        "k: never moved": run({"fine": GOOD, "k": np.full_like(GOOD, 0.3)}),
        "k: never moved, not finite": run({"fine": GOOD, "k": np.where(np.arange(DRAWS) == 7, np.nan, GOOD)}),
        "fewer than 8 draws": run({"k": GOOD[:, :3]}),
    }
    for words, idata in cases.items():
        is_good, reasons = converged(idata)
        assert not is_good
        assert any(words in reason for reason in reasons), (words, reasons)
        assert not any("fine" in reason for reason in reasons)
        assert not any("stuck" in reason or "lower" in reason for reason in reasons)


def test_four_divergences_in_four_thousand_are_few():
    diverging = NEVER.copy()
    diverging[1, :4] = True
    assert converged(good(diverging=diverging)) == (True, [])


def test_chains_stuck_apart_have_no_small_r_hat():
    stuck = np.repeat(np.arange(4.0)[:, None], DRAWS, axis=1)
    assert diagnostics(run({"k": stuck})).loc["k", "r_hat"] > 100
    assert any("Chains 0, 1, 2, 3 are stuck" in reason for reason in converged(run({"k": stuck}))[1])


@pytest.mark.parametrize("every", [50, 5 * DRAWS])
def test_a_chain_that_hardly_moves_is_named(every):
    draws = GOOD.copy()
    draws[2] = GOOD[2, (np.arange(DRAWS) // every) * every % DRAWS]
    reasons = converged(run({"k": draws, "m": draws}))[1]
    assert any(reason.startswith("Chain 2 is stuck") for reason in reasons)
    all_slow = GOOD[:, (np.arange(DRAWS) // 5) * 5]  # a sampler that accepts one proposal in five
    assert not any("stuck" in reason for reason in converged(run({"k": all_slow}))[1])


def test_a_chain_in_a_lower_mode_is_named_with_the_gap():
    lower = NORMAL - np.array([0, 0, 12, 0])[:, None]
    reasons = converged(good(lp=lower))[1]
    gap = np.median(lower[np.argmax(np.median(lower, axis=1))]) - np.median(lower[2])
    assert len(reasons) == 1
    assert reasons[0].startswith(f"Chain 2 is {gap:.3g} log units below chain ")
    # Two low chains are named both, a shift within the spread none.
    assert converged(good(lp=NORMAL - 12 * (np.arange(4) < 2)[:, None]))[1][0].startswith("Chains 0, 1 are 12")
    assert converged(good(lp=NORMAL - np.array([0, 0, 1, 0])[:, None])) == (True, [])


def test_chains_are_not_called_low_beside_one_that_sticks_to_the_mode():
    draws, log_density = GOOD.copy(), NORMAL.copy()
    draws[1], log_density[1] = 0.5, 20.0
    reasons = converged(run({"k": draws}, statistics={"lp": log_density}))[1]
    assert any("Chain 1 is stuck" in reason for reason in reasons)
    assert not any("log units below" in reason for reason in reasons)


def tempered(draws, *, rates=(0.5, 0.5), trips=(3,) * CHAINS):
    """Store ladders of three rungs, whose walkers went round so many times."""
    shape = (CHAINS, draws)
    return run(
        {"k": GOOD[:, :draws]},
        statistics={
            "beta": np.broadcast_to([0.0, 0.1, 1.0], (*shape, 3)),
            "swap_rate": np.broadcast_to(rates, (*shape, 2)),
            "round_trips": 7 + np.linspace(0, trips, draws, axis=1).astype(int),
            "rung_log_likelihood": np.zeros((*shape, 3)),
        },
    )


def test_ladders_without_round_trips_are_named():
    assert converged(tempered(DRAWS)) == (True, [])
    trips = (1, 0, 0, 0)
    reasons = converged(tempered(DRAWS, trips=trips))[1]
    assert len(reasons) == 1
    assert reasons[0].startswith("Chains 1, 2, 3 are without a round trip: in 1000 draws")
    # In fewer than ten draws a rung there need not have been one.
    assert not any("round trip" in reason for reason in converged(tempered(29, trips=trips))[1])
    assert any("round trip" in reason for reason in converged(tempered(30, trips=trips))[1])


def test_rare_swaps_name_the_pair_and_the_rungs_it_takes():
    assert cautions(tempered(DRAWS)) == cautions(tempered(DRAWS, rates=(0.1, 0.9))) == []
    (said,) = cautions(tempered(DRAWS, rates=(0.4, 0.02)))
    assert "beta 0.1 and 1 are rare: 0.02" in said
    assert "at least 1.6 over 3 rungs: use 5 rungs" in said  # 2 * 1.58 + 1, rounded up
    (said,) = cautions(tempered(DRAWS, rates=(0.97, 0.06)))
    assert "spreads its rungs evenly" in said


@pytest.mark.parametrize(("num_deepest", "is_said"), [(40, False), (41, True)])
def test_trajectories_cut_off_at_the_largest_depth(num_deepest, is_said):
    depth = np.where(np.arange(CHAINS * DRAWS) < num_deepest, 10, 5).reshape(CHAINS, DRAWS)
    idata = good(tree_depth=depth)
    assert cautions(idata) == []  # nothing is known of the largest
    idata.attrs |= encode({"settings": {"max_tree_depth": 10}})
    found = cautions(idata)
    assert len(found) == is_said
    if is_said:
        assert "1.03 % of the trajectories" in found[0]
        assert "depth, 10" in found[0]


def test_slow_energies_are_named_by_chain():
    energy = NORMAL.copy()
    energy[3] = np.cumsum(NORMAL[3]) / 10  # a walk
    bfmi = np.mean(np.diff(energy[3]) ** 2) / np.var(energy[3], ddof=1)
    (said,) = cautions(good(energy=energy))
    assert said.startswith("Chain 3 is slow through the energies")
    assert f"is {bfmi:.2f}, below 0.3" in said


JUDGED = {"k_hat": 0.2, "effective_share": 0.999, "largest_change": 0.02}
CHECK = {"draws": 100, "rtol": 1e-8, "atol": 1e-11, "failed": 0, **JUDGED}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({}, []),
        ({"effective_share": 0.9, "largest_change": 0.8}, ["change by up to 0.8, and draws that are weighted"]),
        ({"k_hat": 0.9, "largest_change": 0.2}, ["(k-hat: 0.90)"]),
        ({"k_hat": 0.9, "largest_change": 0.01}, []),  # a heavy tail of differences that do not matter
        ({"k_hat": None, "effective_share": 0.5}, ["worth 50 % of their number (k-hat: cannot be told)"]),
        ({"failed": 3}, ["3 of 100 draws could not be simulated"]),
        ({"failed": 3, "effective_share": 0.5}, ["too loose", "3 of 100"]),
        ({"failed": 100, "k_hat": None, "effective_share": None, "largest_change": None}, ["100 of 100 draws"]),
    ],
)
def test_tolerances_that_shape_the_posterior(found, words):
    idata = good()
    idata.attrs |= encode({"rtol": 1e-5, "atol": 1e-8, "solver_check": CHECK | found})
    said = cautions(idata)
    assert len(said) == len(words)
    for sentence, word in zip(said, words, strict=True):
        assert word in sentence
        assert "at rtol=1e-08 and atol=1e-11" in sentence
        assert "rtol=1e-05 and atol=1e-08 are t" in sentence  # too loose, or tight enough
        assert "et rtol=1e-06 and atol=1e-09 and sample again" in sentence
    assert converged(idata) == (True, [])


@pytest.mark.parametrize(("failed", "is_said"), [(0, False), (2, False), (3, True)])
def test_failures_near_the_bulk_truncate_the_posterior(failed, is_said):
    idata = good()
    idata.attrs |= encode({"failed_near_bulk": {"tried": 200, "failed": failed, "by_reason": {"max_steps": failed}}})
    said = cautions(idata)
    assert len(said) == is_said
    assert not is_said or "3 of 200 simulations near the bulk of the posterior failed (3 max_steps)" in said[0]

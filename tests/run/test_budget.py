import numpy as np
import pytest

from kinbayes.run.budget import Clock, SamplerBudget, in_turn
from kinbayes.run.loop.runs import Diagnostics, SamplerProgress, SamplerRun

RUN = SamplerRun(
    position=np.zeros((4, 10, 2)),
    log_prior=np.zeros((4, 10)),
    log_likelihood=np.zeros((4, 10)),
    info={},
    warmup=None,
    state=None,
    diagnostics=(),
    iterations=10,
    num_steps=0,
    seconds_warmup=0.0,
    seconds_draws=1.0,
    stopped="",
)


def progress(**fields):
    return SamplerProgress("draws", 10, 20, {}, RUN._replace(**fields))


def test_simulations_count_all_lanes():
    budget = SamplerBudget(3, None, 300, None)
    assert budget.reason(progress(num_steps=99)) is None
    assert budget.reason(progress(num_steps=100)) == "max_simulations"


@pytest.mark.parametrize(
    ("rhat", "bulk", "tail", "reason"),
    [(1.005, 400, 400, "target_ess"), (1.02, 900, 900, None), (1.0, 399, 900, None), (1.0, 900, 399, None)],
)
def test_enough_draws_are_those_of_chains_that_agree(rhat, bulk, tail, reason):
    budget = SamplerBudget(1, None, None, 400)
    assert budget.reason(progress()) is None
    assert budget.reason(progress(diagnostics=(Diagnostics(100, rhat, bulk, tail),))) == reason


def test_nothing_is_enough_where_nothing_can_be_told():
    nan = float("nan")
    assert SamplerBudget(1, None, None, 1).reason(progress(diagnostics=(Diagnostics(5, nan, nan, nan),))) is None


def test_the_clock_begins_when_it_is_made(monkeypatch):
    now = [50.0]
    monkeypatch.setattr("kinbayes.run.budget.time.perf_counter", lambda: now[0])
    clock, endless = Clock(2.0), Clock(None)
    now[0] = 51.9
    assert clock.reason(progress()) is None
    now[0] = 52.0
    assert clock.reason(progress()) == "max_seconds"
    assert endless.reason(progress()) is None


@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_budgets_are_positive(value):
    with pytest.raises(ValueError, match=r"max_seconds is .*; it must be positive, or None for no limit"):
        Clock(value)
    with pytest.raises(ValueError, match="target_ess is"):
        SamplerBudget(1, None, None, value)


def test_the_last_hook_decides():
    seen = []
    hook = in_turn([None, seen.append, lambda progress: "enough"])
    assert hook(progress(num_steps=7)) == "enough"
    assert [told.run.num_steps for told in seen] == [7]
    assert in_turn([lambda progress: "enough", lambda progress: None])(progress()) is None

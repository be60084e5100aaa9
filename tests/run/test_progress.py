import io

import numpy as np
import pytest
from jax.tree_util import Partial
from rich.console import Console

from kinbayes.optimizers.base import Bounds, Evaluation
from kinbayes.optimizers.quasi_newton import quasi_newton
from kinbayes.run.loop.driver import run_optimizer, run_sampler
from kinbayes.run.progress import ProgressDisplay
from kinbayes.samplers.random_walk import random_walk
from tests import targets


def shown(run, *, is_terminal: bool) -> str:
    """What a display writes while run(on_chunk) goes on, and after it."""
    written = io.StringIO()
    with ProgressDisplay(Console(file=written, force_terminal=is_terminal, width=120)) as display:
        run(display.update)
    return written.getvalue()


def sampler(on_chunk):
    known = targets.correlated_normal()
    return run_sampler(
        known.target,
        random_walk,
        initial=known.initial,
        num_warmup=40,
        num_draws=80,
        seed=0,
        chunk=10,
        on_chunk=on_chunk,
    )


def _bowl(U):
    return Evaluation((U**2).sum(axis=1), 2.0 * U)


def optimizer(on_chunk):
    bounds = Bounds(-np.ones(2), np.ones(2))
    return run_optimizer(
        Partial(_bowl),
        quasi_newton,
        bounds=bounds,
        initial=np.full((3, 1, 2), 0.5),
        max_evaluations=300,
        seed=0,
        on_chunk=on_chunk,
    )


def test_without_a_terminal_a_run_takes_a_few_lines():
    lines = shown(sampler, is_terminal=False).splitlines()
    assert len(lines) <= 8
    assert lines[0].startswith("warmup ")
    assert any(line.startswith("draws 80/80: acceptance 0.") for line in lines)
    assert all("diverging" not in line for line in lines)


@pytest.mark.parametrize(("run", "phases"), [(sampler, ["warmup", "draws"]), (optimizer, ["optimize"])])
def test_a_terminal_has_a_bar_for_every_phase(run, phases):
    text = shown(run, is_terminal=True)
    assert all(phase in text for phase in phases)
    assert "━" in text


def test_an_optimizer_tells_its_loss():
    last = shown(optimizer, is_terminal=False).splitlines()[-1]
    assert last.startswith("optimize ")
    assert ": loss " in last

"""A problem whose losses and failures are known in closed form, and a network whose points are."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pandas as pd

import kinbayes as kb
from kinbayes.amortized.defensive import defensive
from kinbayes.amortized.fit import empty_history
from kinbayes.amortized.networks.base import Network
from kinbayes.amortized.proposal import LearnedProposal
from kinbayes.amortized.scaling import BoxScaling, fit_condition
from kinbayes.model.expressions import const
from kinbayes.model.formula import parse


def problem():
    """A normal mean k, measured once as 0 with sd 1, and h, below 0 without a root, so without a simulation."""
    model = kb.Model("m", {"A": parse("-sqrt(h) * A")}, {"A": const(1.0), "k": const(0.0), "h": const(1.0)})
    return kb.Problem(
        model,
        [kb.Parameter("k", kb.Uniform(-4.0, 4.0)), kb.Parameter("h", kb.Uniform(-1.0, 3.0))],
        [kb.Observable("y", "k + 1e-12 * A", kb.noise.normal(1.0))],
        pd.DataFrame({"observableId": ["y"], "time": [1.0], "measurement": [0.0]}),
    )


class Ruled(Network):
    """Generates k at a share of its range, whatever is asked for or, if it obeys, at the condition; h evenly."""

    obeys: bool = eqx.field(static=True)
    share: jnp.ndarray

    def generate(self, key, c):
        k = c if self.obeys else jnp.full_like(c, self.share)
        return jnp.stack([k, (jnp.arange(len(c)) + 0.5) / len(c)], axis=1)


def proposal(of, *, obeys=True, share=0.5):
    """Condition 0 asks for k = 0, the best; 1 for k = 4, a loss of 8 more, in ranks of the square of what was asked."""
    losses = 8.0 * np.linspace(0.0, 1.0, 101) ** 2
    return LearnedProposal(
        Ruled(obeys, jnp.asarray(share)),
        "ruled",
        {},
        BoxScaling(np.array([0.0, -1.0]), np.array([4.0, 3.0])),
        fit_condition(losses - float(of.log_density(np.array([0.0, 1.0]))), "rank"),
        np.zeros(1),
        1,
        0.05,
        defensive(of),
        of.parameter_names,
        of.scale,
        of.hash,
        {},
        empty_history(dim=2),
    )

"""Optimizers, by the name a user types."""

from kinbayes.optimizers.base import OptimizerFactory
from kinbayes.optimizers.multistart import multistart

OPTIMIZERS: dict[str, OptimizerFactory] = {
    "multistart": multistart,
}

"""Optimizers, by the name a user types."""

from kinbayes.optimizers.base import OptimizerFactory
from kinbayes.optimizers.bayesian import bayesian
from kinbayes.optimizers.differential_evolution import differential_evolution
from kinbayes.optimizers.genetic import genetic
from kinbayes.optimizers.multistart import multistart
from kinbayes.optimizers.particle_swarm import particle_swarm
from kinbayes.optimizers.quasi_newton import quasi_newton
from kinbayes.optimizers.scatter_search import scatter_search
from kinbayes.optimizers.simplex import simplex
from kinbayes.optimizers.simulated_annealing import simulated_annealing

OPTIMIZERS: dict[str, OptimizerFactory] = {
    "bayesian": bayesian,
    "differential_evolution": differential_evolution,
    "genetic": genetic,
    "multistart": multistart,
    "particle_swarm": particle_swarm,
    "quasi_newton": quasi_newton,
    "scatter_search": scatter_search,
    "simplex": simplex,
    "simulated_annealing": simulated_annealing,
}

"""Markov chain Monte Carlo samplers, by the name a user types."""

from kinbayes.samplers.adaptive_metropolis import adaptive_metropolis
from kinbayes.samplers.amortized import amortized
from kinbayes.samplers.base import SamplerFactory
from kinbayes.samplers.dream import dream
from kinbayes.samplers.nuts import nuts
from kinbayes.samplers.parallel_tempering import parallel_tempering
from kinbayes.samplers.random_walk import random_walk

SAMPLERS: dict[str, SamplerFactory] = {
    "adaptive_metropolis": adaptive_metropolis,
    "amortized": amortized,
    "dream": dream,
    "nuts": nuts,
    "parallel_tempering": parallel_tempering,
    "random_walk": random_walk,
}

"""Markov chain Monte Carlo samplers, by the name a user types."""

from kinbayes.samplers.base import SamplerFactory
from kinbayes.samplers.nuts import nuts
from kinbayes.samplers.random_walk import random_walk

SAMPLERS: dict[str, SamplerFactory] = {
    "nuts": nuts,
    "random_walk": random_walk,
}

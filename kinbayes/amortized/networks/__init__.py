"""Conditional generative networks, by the name a user types."""

from kinbayes.amortized.networks.base import NetworkFactory
from kinbayes.amortized.networks.ccgan import ccgan
from kinbayes.amortized.networks.cvae import cvae
from kinbayes.amortized.networks.flow import flow
from kinbayes.amortized.networks.transformer_cvae import transformer_cvae

NETWORKS: dict[str, NetworkFactory] = {
    "ccgan": ccgan,
    "cvae": cvae,
    "flow": flow,
    "transformer_cvae": transformer_cvae,
}

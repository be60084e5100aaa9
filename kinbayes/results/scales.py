"""The scales on which parameters are stated: natural values there, and back."""

import numpy as np
from jaxtyping import Float

LOG_BASES = {"ln": np.e, "log10": 10.0}


def to_scale(theta: Float[np.ndarray, "*shape"], scale: str) -> Float[np.ndarray, "*shape"]:
    """Return natural values on a scale."""
    if scale == "lin":
        return theta
    with np.errstate(divide="ignore", invalid="ignore"):  # zero and below are not finite there
        return np.log(theta) / np.log(LOG_BASES[scale])


def from_scale(u: Float[np.ndarray, "*shape"], scale: str) -> Float[np.ndarray, "*shape"]:
    """Return natural values of scaled ones."""
    return u if scale == "lin" else LOG_BASES[scale] ** u

"""The tolerances of a simulation."""

import math


def check_tolerances(rtol: float, atol: float) -> None:
    """Refuse tolerances that are no finite positive numbers.

    Raises
    ------
    ValueError
        If one is none.
    """
    for name, value in (("rtol", rtol), ("atol", atol)):
        if not 0.0 < value < math.inf:
            raise ValueError(f"{name} is {value}; it must be a finite positive number")

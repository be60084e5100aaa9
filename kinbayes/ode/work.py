"""The kernel's numbers and memory by name: pointers to their parts."""

from typing import NamedTuple

import numpy as np

from kinbayes.ode import tableau
from kinbayes.ode.intrinsics import WIDTH, inline, plus
from kinbayes.ode.numbers import NUM_INTS, Floats, Ints, Sizes


@inline
def unpack(ints, floats):
    """Return pointers to the sections by name; `pack` is the inverse."""
    i, f = ints, plus(ints, NUM_INTS + 1)
    whole = Ints(
        plus(i, i[0]),
        plus(i, i[1]),
        plus(i, i[2]),
        plus(i, i[3]),
        plus(i, i[4]),
        plus(i, i[5]),
        plus(i, i[6]),
        plus(i, i[7]),
        plus(i, i[8]),
        plus(i, i[9]),
        plus(i, i[10]),
        plus(i, i[11]),
        plus(i, i[12]),
        plus(i, i[13]),
    )
    real = Floats(
        plus(floats, f[0]),
        plus(floats, f[1]),
        plus(floats, f[2]),
        plus(floats, f[3]),
        plus(floats, f[4]),
        plus(floats, f[5]),
        plus(floats, f[6]),
        plus(floats, f[7]),
    )
    z = whole.sizes
    sizes = Sizes(
        z[0],
        z[1],
        z[2],
        z[3],
        z[4],
        z[5],
        z[6],
        z[7],
        z[8],
        z[9],
        z[10],
        z[11],
        z[12],
        z[13],
        z[14],
        z[15],
        z[16],
        z[17],
        z[18],
    )
    return sizes, whole, real


class Work(NamedTuple):
    """Pointers to the memory of one thread."""

    theta: np.ndarray  # natural parameter values
    inputs: np.ndarray  # of a lane, then whether the sometimes given are
    constants: np.ndarray
    y: np.ndarray
    f: np.ndarray
    u: np.ndarray  # twice: sums for this stage and for the next
    rhs: np.ndarray  # twice
    none: np.ndarray  # zeros
    sum: np.ndarray  # what a stage is to be solved for
    largest: np.ndarray  # the largest that every state has been
    floors: np.ndarray  # the absolute tolerance of every state
    weights: np.ndarray  # the error that it may have at the start of a step
    stages: np.ndarray  # one after the other
    observed: np.ndarray  # the states at a time of the data
    jac: np.ndarray
    factors: np.ndarray
    shift: np.ndarray
    newest: np.ndarray  # the coefficients a and c / h of the newest stage
    arguments: np.ndarray
    row: np.ndarray


@inline
def padded(num_states):
    """Return the length of an array of states, in whole vectors."""
    return (num_states + WIDTH - 1) // WIDTH * WIDTH


@inline
def memory_size(sizes):
    """Return how many numbers of memory a thread takes."""
    many = sizes.parameters + sizes.inputs + sizes.sometimes + sizes.constants + sizes.entries + sizes.factors
    return many + (12 + tableau.NUM_STAGES) * padded(sizes.states) + 3 + sizes.arguments + sizes.columns + 1


@inline
def divide(memory, sizes):
    """Return the parts of a thread's memory."""
    n = padded(sizes.states)
    theta = memory
    inputs = plus(theta, sizes.parameters)
    constants = plus(inputs, sizes.inputs + sizes.sometimes)
    y = plus(constants, sizes.constants)
    f = plus(y, n)
    u = plus(f, n)
    rhs = plus(u, 2 * n)
    none = plus(rhs, 2 * n)
    sum_ = plus(none, n)
    largest = plus(sum_, n)
    floors = plus(largest, n)
    weights = plus(floors, n)
    stages = plus(weights, n)
    observed = plus(stages, tableau.NUM_STAGES * n)
    jac = plus(observed, n)
    factors = plus(jac, sizes.entries)
    shift = plus(factors, sizes.factors)
    newest = plus(shift, 1)
    arguments = plus(newest, 2)
    row = plus(arguments, sizes.arguments)
    return Work(
        theta,
        inputs,
        constants,
        y,
        f,
        u,
        rhs,
        none,
        sum_,
        largest,
        floors,
        weights,
        stages,
        observed,
        jac,
        factors,
        shift,
        newest,
        arguments,
        row,
    )

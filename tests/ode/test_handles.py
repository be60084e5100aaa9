"""A handle must lead compiled code to its own numbers, however many there are, and an unknown one to an error."""

import gc
import threading
import weakref

import numba
import numpy as np
import pytest

from kinbayes.ode import handles
from kinbayes.ode.numbers import Numbers


def numbers_of(k: int) -> Numbers:
    return Numbers(np.array([k, k + 1]), np.arange(k % 5), np.array([0.5 * k]))


@numba.njit(nogil=True)
def total(handle):
    code, ints, floats = handles.numbers_of(handle)
    return code.sum() + ints.sum() + floats.sum()


def expected(k: int) -> float:
    return sum(part.sum() for part in numbers_of(k))


def test_numbers_are_found_by_what_python_and_numba_compile():
    rng = np.random.default_rng(0)
    # Some fall on one place of the table, and there are more than it has places at first.
    drawn = {int(h): k for k, h in enumerate(rng.integers(-(2**63), 2**63 - 1, 300))}
    drawn |= {4096 * (k + 1): k for k in range(300)}
    for handle, k in drawn.items():
        handles.register(handle, numbers_of(k), None)
        assert total(handle) == expected(k)
    for handle, k in drawn.items():
        assert total(handle) == expected(k)
        for found, part in zip(handles.registered(handle), numbers_of(k), strict=True):
            np.testing.assert_array_equal(found, part)


def test_an_unknown_handle_is_an_error():
    for handle in (0, 12345678987654321, -1):
        with pytest.raises(ValueError, match="knows no problem"):
            total(handle)
        with pytest.raises(ValueError, match="knows no problem"):
            handles.registered(handle)


class Owner:
    """What machine code belongs to."""


def test_a_handle_stands_for_what_it_stood_for_first():
    handles.register(11, numbers_of(1), None)
    handles.register(11, numbers_of(2), None)
    assert total(11) == expected(1)


def test_numbers_and_their_owner_live_on():
    owner = Owner()
    alive = weakref.ref(owner)
    handles.register(13, Numbers(np.full(5, 3), np.zeros(0, dtype=np.int64), np.full(100_000, 2.0)), owner)
    del owner
    gc.collect()
    assert alive() is not None
    for _ in range(50):
        np.full(100_000, 7.0)
    assert total(13) == 15 + 200_000


def test_threads_read_while_another_one_writes():
    handles.register(17, numbers_of(17), None)
    found, is_done = [], threading.Event()

    def read():
        while not is_done.is_set():
            found.append(total(17) == expected(17))

    reader = threading.Thread(target=read)
    reader.start()
    for k in range(2000):
        handles.register(-(10**6) * (k + 1), numbers_of(k), None)
    is_done.set()
    reader.join(timeout=60)
    assert found
    assert all(found)

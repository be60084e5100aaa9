"""Numbers by a handle: what means the same in every process, for compiled code that is carried from one to another.

An address is good in one process only. So a program that may be pickled, or cached on disk, holds a handle, and every
process has a table of where the numbers of its handles are. Compiled code finds the table by the name of a symbol.

Numbers that have a handle, and the code whose addresses they hold, are never freed: compiled code may ask for them as
long as the process lives.
"""

import functools
import threading
from collections.abc import Callable

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kinbayes.ode.numbers import Numbers
from kinbayes.ode.xla_handler import cached

_SYMBOL = "kinbayes_handles"
_WORDS = 8  # of an entry: handle, then address and length of code, ints and floats
_FIRST = 64  # entries of the first table, a power of two; the first one has the size of the table

_known: dict[int, Numbers] = {}
_owners: list[object] = []
_tables = [np.zeros((1 + _FIRST, _WORDS), dtype=np.int64)]  # old ones stay: another thread may be reading one
_tables[0][0, 0] = _FIRST
_newest = np.array([_tables[0].ctypes.data])
llvm.add_symbol(_SYMBOL, _newest.ctypes.data)
_writing = threading.Lock()


def register(handle: int, numbers: Numbers, owner: object) -> None:
    """Let a handle stand for numbers, in this process; where it does already, it stands for those it stood for.

    Parameters
    ----------
    handle
        A whole number of 64 bits but 0, the same in every process: of a digest of all that the numbers come from, so
        that numbers of one handle compute the same, wherever their machine code lies.
    numbers
        The numbers, with addresses of this process.
    owner
        What keeps the addresses good.
    """
    with _writing:
        if handle in _known:
            return
        _known[handle] = Numbers(*(np.ascontiguousarray(part) for part in numbers))
        _owners.append(owner)
        _grow() if 2 * len(_known) > len(_tables[-1]) else _enter(handle)


def registered(handle: int) -> Numbers:
    """Return the numbers of a handle.

    Raises
    ------
    ValueError
        If it stands for none in this process.
    """
    if handle not in _known:
        raise ValueError(_UNKNOWN)
    return _known[handle]


_UNKNOWN = "this process knows no problem of this handle: pickle and unpickle the whole model, not parts of it"


def _grow() -> None:
    _tables.append(np.zeros((2 * len(_tables[-1]) - 1, _WORDS), dtype=np.int64))
    _tables[-1][0, 0] = len(_tables[-1]) - 1
    for handle in _known:
        _enter(handle)
    _newest[0] = _tables[-1].ctypes.data


def _enter(handle: int) -> None:
    table = _tables[-1]
    size = len(table) - 1
    place = handle & (size - 1)
    while table[1 + place, 0] != 0:
        place = (place + 1) & (size - 1)
    parts = [(part.ctypes.data, part.size) for part in _known[handle]]
    table[1 + place, 1:7] = np.ravel(parts)
    table[1 + place, 0] = handle  # last, for those who read meanwhile


# ---- numba

_WORD = ir.IntType(64)


@intrinsic
def _table(typing_context):
    """Return the address of the newest table."""

    def generate(context, builder, signature, values):
        found = builder.module.globals.get(_SYMBOL) or ir.GlobalVariable(builder.module, _WORD, _SYMBOL)
        return builder.load(found)

    return types.int64(), generate


@intrinsic
def _word(typing_context, address, k):
    """Return a word behind an address."""

    def generate(context, builder, signature, values):
        return builder.load(builder.gep(builder.inttoptr(values[0], _WORD.as_pointer()), [values[1]]))

    return types.int64(types.int64, types.int64), generate


def _pointer_to(element: types.Type) -> Callable:
    @intrinsic
    def pointer(typing_context, address):
        """Return an address as a pointer."""

        def generate(context, builder, signature, values):
            return builder.inttoptr(values[0], context.get_value_type(types.CPointer(element)))

        return types.CPointer(element)(types.int64), generate

    return pointer


_whole_at, _real_at = _pointer_to(types.int64), _pointer_to(types.float64)


def _numbers_of(words: int, unknown: str) -> Callable:
    def numbers_of(handle):
        table = _table()
        size = _word(table, 0)
        place = handle & (size - 1)
        while True:
            place += 1
            entry = table + 8 * words * place
            found = _word(entry, 0)
            if found == 0:
                raise ValueError(unknown)
            if found == handle:
                break
            place &= size - 1
        code = numba.carray(_whole_at(_word(entry, 1)), _word(entry, 2))
        ints = numba.carray(_whole_at(_word(entry, 3)), _word(entry, 4))
        floats = numba.carray(_real_at(_word(entry, 5)), _word(entry, 6))
        return code, ints, floats

    return numbers_of


numbers_of = cached(functools.partial(numba.njit, nogil=True), _numbers_of(_WORDS, _UNKNOWN))
"""Return code, ints and floats of a handle, for what numba compiles; a ValueError where it is unknown."""

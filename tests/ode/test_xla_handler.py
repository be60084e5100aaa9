"""The handler must read what XLA passes, refuse what it cannot read, and share a batch with XLA's threads."""

import ctypes
import functools
import importlib.util
from collections.abc import Callable

import jax
import numpy as np
import pytest

from kinbayes.ode import xla_handler
from kinbayes.ode.numbers import Ints, Sizes
from tests.ode.test_bridges import EXPECTED, NUMBERS, U

ONE_THREAD, ALL_THREADS = np.int64(0), np.int64(1)


def called(
    target: str, operands: tuple, results: tuple[int, ...] = (len(U),), over_threads: np.generic | None = ONE_THREAD
) -> list[np.ndarray]:
    """Let XLA call a handler with operands, for vectors of results."""
    call = jax.ffi.ffi_call(target, [jax.ShapeDtypeStruct((size,), np.float64) for size in results])
    attributes = {} if over_threads is None else {"over_threads": over_threads}
    return jax.block_until_ready(jax.jit(lambda *given: call(*given, **attributes))(*operands))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"operands": (U, *NUMBERS[:2])}, "expected 4 operands"),
        ({"results": (5, 5)}, "expected 4 operands"),
        ({"over_threads": None}, "expected 4 operands"),
        ({"over_threads": np.int32(0)}, "type or shape"),
        ({"operands": (U.astype(np.float32), *NUMBERS)}, "type or shape"),
        ({"operands": (U, NUMBERS.code.astype(float), *NUMBERS[1:])}, "type or shape"),
        ({"operands": (U, *NUMBERS[:2], NUMBERS.floats.astype(np.float32))}, "type or shape"),
        ({"operands": (U[0], *NUMBERS), "results": (2,)}, "type or shape"),
        ({"operands": (U, NUMBERS.code[None], *NUMBERS[1:])}, "type or shape"),
        ({"results": (4,)}, "type or shape"),
        ({"operands": (U[:, :1], *NUMBERS)}, "entries"),
    ],
)
def test_the_handler_refuses_what_it_cannot_read(given, words):
    sound = {"operands": (U, *NUMBERS)}
    np.testing.assert_array_equal(called(xla_handler.target(), **sound)[0], EXPECTED)
    with pytest.raises(jax.errors.JaxRuntimeError, match=words):
        called(xla_handler.target(), **{**sound, **given})


def test_the_layout_that_the_handler_takes_for_granted():
    assert Ints._fields[0] == "sizes"
    assert Sizes._fields[0] == "parameters"


def handle(frame: int) -> int:
    return xla_handler.handler().ctypes(frame)


def question(metadata: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the frame by which XLA asks for metadata, and what must stay alive with it."""
    extension = np.array([32, 1, 0, metadata.ctypes.data])
    frame = np.zeros(22, dtype=np.int64)
    frame[:2] = 168, extension.ctypes.data
    return frame, extension


def test_the_handler_tells_its_version():
    metadata = np.array([36, 24, 0, 0, 0])
    frame, extension = question(metadata)
    assert handle(frame.ctypes.data) == 0
    assert metadata.tolist() == [36, 24, 0, 3 << 32, 0]
    assert extension[1] == 1


def test_xla_refuses_a_handler_of_another_version():
    version = np.array([0, 999], dtype=np.int32)

    @ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)
    def answer(frame: int) -> int:
        extension = fields(frame, 2)[1]
        ctypes.memmove(fields(extension, 4)[3] + 24, version.ctypes.data, 8)
        return 0

    capsule = jax.ffi.pycapsule(ctypes.cast(answer, ctypes.c_void_p).value)
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"version \(0.999\)"):
        jax.ffi.register_ffi_target("kinbayes_test", capsule, platform="cpu")


def refuse(*arguments: object, **settings: object) -> None:
    raise jax.errors.JaxRuntimeError("refused")


@pytest.mark.parametrize("name", ["local_devices", "ffi.register_ffi_target"])
def test_there_is_no_target_where_xla_cannot_call(monkeypatch, name):
    monkeypatch.setattr(f"jax.{name}", refuse)
    assert xla_handler.target.__wrapped__() is None


def handled(api: dict[int, Callable[[int], int]], over_threads: int = 1, extension: int = 0) -> np.ndarray:
    """Call the handler as XLA does, with functions of ours for those of its interface; return the likelihoods of U."""
    kept = []

    def struct(*words: int) -> int:
        kept.append(np.array(words, dtype=np.int64))
        return kept[-1].ctypes.data

    def buffer(array: np.ndarray) -> int:
        kept.append(array)
        return struct(48, 0, 12 if array.dtype == float else 5, array.ctypes.data, array.ndim, struct(*array.shape))

    totals = np.full(len(U), np.nan)
    functions = {k: ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(f) for k, f in api.items()}
    addresses = {k: ctypes.cast(f, ctypes.c_void_p).value for k, f in functions.items()}
    frame = struct(
        *(168, extension, struct(192, 0, 24, 0, 3 << 32, *(addresses.get(k, 0) for k in range(5, 24))), 77, 3),
        *(40, 0, 4, 0, struct(*map(buffer, (U, *NUMBERS)))),
        *(40, 0, 1, 0, struct(buffer(totals))),
        *(48, 0, 1, 0, 0, struct(struct(5, struct(over_threads))), 0),
    )
    assert handle(frame) == 0
    return totals


def fields(address: int, num: int) -> list[int]:
    return list((ctypes.c_int64 * num).from_address(address))


def tell(num_threads: int) -> Callable[[int], int]:
    def num(struct: int) -> int:
        size, _, execution, out = fields(struct, 4)
        assert (size, execution) == (32, 77)
        ctypes.c_int64.from_address(out).value = num_threads
        return 0

    return num


def test_helpers_may_come_in_time_or_too_late():
    tasks = []

    def schedule(struct: int) -> int:
        size, _, execution, task, shared = fields(struct, 5)
        assert (size, execution) == (40, 77)
        tasks.append(functools.partial(ctypes.CFUNCTYPE(None, ctypes.c_int64)(task), shared))
        if len(tasks) == 2:
            tasks[1]()  # in time: it does all the work before the caller begins
        return 0

    np.testing.assert_array_equal(handled({17: schedule, 18: tell(4)}), EXPECTED)
    assert len(tasks) == 3
    tasks[0]()  # too late: the batch is closed
    tasks[2]()  # so too, and the last: it frees what was shared


def test_one_thread_needs_no_helper():
    np.testing.assert_array_equal(handled({18: tell(1)}), EXPECTED)
    np.testing.assert_array_equal(handled({}, over_threads=0), EXPECTED)


def test_an_unknown_extension_is_none_of_the_handlers_business():
    unknown = np.array([24, 7, 0])
    np.testing.assert_array_equal(handled({}, over_threads=0, extension=unknown.ctypes.data), EXPECTED)


@pytest.mark.parametrize("missing", ["pool", "schedule"])
def test_without_threads_of_xlas_the_caller_does_it_all(missing):
    destroyed = []

    def destroy(struct: int) -> int:
        destroyed.append(fields(struct, 3))
        return 0

    api = {8: destroy, 17: lambda struct: 4321, 18: tell(4) if missing == "schedule" else lambda struct: 4321}
    np.testing.assert_array_equal(handled(api), EXPECTED)
    assert destroyed == [[24, 0, 4321]]


def test_nothing_is_cached_where_no_folder_is_writable():
    def compile_fn(*signature, cache=False):
        if cache:
            raise RuntimeError("no locator available")
        return lambda function: (signature, function)

    assert xla_handler.cached(compile_fn, abs, "signature") == (("signature",), abs)


def test_a_second_copy_of_the_module_registers_a_handler_of_its_own():
    spec = importlib.util.spec_from_file_location("handler_again", xla_handler.__file__)
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    assert xla_handler.target() != again.target() is not None
    for target in (again.target(), xla_handler.target()):
        for over_threads in (ONE_THREAD, ALL_THREADS):
            found = called(target, (U, *NUMBERS), over_threads=over_threads)
            np.testing.assert_array_equal(found[0], EXPECTED)

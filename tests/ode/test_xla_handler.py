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
from tests.ode.test_bridges import EXPECTED, GRADIENTS, NUMBERS, PLAIN, SOME_FAIL, VALUES, U

ONE_THREAD, ALL_THREADS = np.int64(0), np.int64(1)
ALONE, BOTH = ((len(U),), (len(U), 0)), ((len(U),), U.shape)  # shapes of results


def assert_all_equal(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def called(
    target: str, operands: tuple, results: tuple = BOTH, over_threads: np.generic | None = ONE_THREAD
) -> list[np.ndarray]:
    """Let XLA call a handler with operands, for results of some shapes."""
    call = jax.ffi.ffi_call(target, [jax.ShapeDtypeStruct(shape, np.float64) for shape in results])
    attributes = {} if over_threads is None else {"over_threads": over_threads}
    return jax.block_until_ready(jax.jit(lambda *given: call(*given, **attributes))(*operands))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"operands": (U, *NUMBERS[:2])}, "expected 4 operands"),
        ({"results": ((5,),)}, "2 results"),
        ({"results": (*BOTH, (5,))}, "2 results"),
        ({"over_threads": None}, "expected 4 operands"),
        ({"over_threads": np.int32(0)}, "type or shape"),
        ({"operands": (U.astype(np.float32), *NUMBERS)}, "type or shape"),
        ({"operands": (U, NUMBERS.code.astype(float), *NUMBERS[1:])}, "type or shape"),
        ({"operands": (U, *NUMBERS[:2], NUMBERS.floats.astype(np.float32))}, "type or shape"),
        ({"operands": (U[0], *NUMBERS), "results": ((2,), (2, 0))}, "type or shape"),
        ({"operands": (U, NUMBERS.code[None], *NUMBERS[1:])}, "type or shape"),
        ({"results": ((4,), (5, 2))}, "type or shape"),
        ({"results": ((5,), (4, 2))}, "type or shape"),
        ({"results": ((5,), (5, 1))}, "type or shape"),
        ({"results": ((5,), (5, 3))}, "type or shape"),
        ({"results": ((5,), (5,))}, "type or shape"),
        ({"operands": (U[:, :1], *NUMBERS), "results": ((5,), (5, 1))}, "entries"),
        ({"operands": (U[:, :1], *NUMBERS), "results": ALONE}, "entries"),
        ({"operands": (U, *PLAIN)}, "no derivatives"),
    ],
)
def test_the_handler_refuses_what_it_cannot_read(given, words):
    sound = {"operands": (U, *NUMBERS)}
    assert_all_equal(called(xla_handler.target(), **sound), (VALUES, GRADIENTS))
    with pytest.raises(jax.errors.JaxRuntimeError, match=words):
        called(xla_handler.target(), **{**sound, **given})


@pytest.mark.parametrize("over_threads", [ONE_THREAD, ALL_THREADS])
def test_nobody_has_to_want_gradients(over_threads):
    for numbers in (NUMBERS, PLAIN):
        found = called(xla_handler.target(), (U, *numbers), ALONE, over_threads)
        assert_all_equal(found, (EXPECTED, np.zeros((5, 0))))


@pytest.mark.parametrize("over_threads", [ONE_THREAD, ALL_THREADS])
def test_a_failed_lane_leaves_no_gradient(over_threads):
    totals, gradients = called(xla_handler.target(), (U, *SOME_FAIL), BOTH, over_threads)
    fails = np.isneginf(totals)
    assert set(fails) == {True, False}
    np.testing.assert_array_equal(gradients == 0.0, np.stack([fails, fails], axis=1))


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


def handled(
    api: dict[int, Callable[[int], int]], over_threads: int = 1, extension: int = 0, width: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """Call the handler as XLA does, with functions of ours for those of its interface; return its results for U."""
    kept = []

    def struct(*words: int) -> int:
        kept.append(np.array(words, dtype=np.int64))
        return kept[-1].ctypes.data

    def buffer(array: np.ndarray) -> int:
        kept.append(array)
        return struct(48, 0, 12 if array.dtype == float else 5, array.ctypes.data, array.ndim, struct(*array.shape))

    results = np.full(len(U), np.nan), np.full((len(U), width), np.nan)
    functions = {k: ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(f) for k, f in api.items()}
    addresses = {k: ctypes.cast(f, ctypes.c_void_p).value for k, f in functions.items()}
    frame = struct(
        *(168, extension, struct(192, 0, 24, 0, 3 << 32, *(addresses.get(k, 0) for k in range(5, 24))), 77, 3),
        *(40, 0, 4, 0, struct(*map(buffer, (U, *NUMBERS)))),
        *(40, 0, 2, 0, struct(*map(buffer, results))),
        *(48, 0, 1, 0, 0, struct(struct(5, struct(over_threads))), 0),
    )
    assert handle(frame) == 0
    return results


def fields(address: int, num: int) -> list[int]:
    return list((ctypes.c_int64 * num).from_address(address))


def tell(num_threads: int) -> Callable[[int], int]:
    def num(struct: int) -> int:
        size, _, execution, out = fields(struct, 4)
        assert (size, execution) == (32, 77)
        ctypes.c_int64.from_address(out).value = num_threads
        return 0

    return num


@pytest.mark.parametrize("width", [0, 2])
def test_helpers_may_come_in_time_or_too_late(width):
    tasks = []

    def schedule(struct: int) -> int:
        size, _, execution, task, shared = fields(struct, 5)
        assert (size, execution) == (40, 77)
        tasks.append(functools.partial(ctypes.CFUNCTYPE(None, ctypes.c_int64)(task), shared))
        if len(tasks) == 2:
            tasks[1]()  # in time: it does all the work before the caller begins
        return 0

    values = VALUES if width else EXPECTED
    assert_all_equal(handled({17: schedule, 18: tell(4)}, width=width), (values, GRADIENTS[:, :width]))
    assert len(tasks) == 3
    tasks[0]()  # too late: the batch is closed
    tasks[2]()  # so too, and the last: it frees what was shared


def test_one_thread_needs_no_helper():
    assert_all_equal(handled({18: tell(1)}), (VALUES, GRADIENTS))
    assert_all_equal(handled({}, over_threads=0), (VALUES, GRADIENTS))


def test_an_unknown_extension_is_none_of_the_handlers_business():
    unknown = np.array([24, 7, 0])
    assert_all_equal(handled({}, over_threads=0, extension=unknown.ctypes.data), (VALUES, GRADIENTS))


@pytest.mark.parametrize("missing", ["pool", "schedule"])
def test_without_threads_of_xlas_the_caller_does_it_all(missing):
    destroyed = []

    def destroy(struct: int) -> int:
        destroyed.append(fields(struct, 3))
        return 0

    api = {8: destroy, 17: lambda struct: 4321, 18: tell(4) if missing == "schedule" else lambda struct: 4321}
    assert_all_equal(handled(api), (VALUES, GRADIENTS))
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
            assert_all_equal(found, (VALUES, GRADIENTS))

"""Addresses of the loops that numba compiles, from files of machine code beside its cache.

Loading numba, only to have it load machine code, takes longer than a first simulation. So when numba compiles loops,
their machine code is kept in a second file, which LLVM alone can load.
"""

import functools
import hashlib
import importlib
import importlib.metadata
import re
import sys
import uuid
from pathlib import Path

import llvmlite.binding as llvm

from kinbayes.ode.sources import SOURCES

# Where an error of Python's would be told, which the loops do not raise. Numba has functions of these names.
_NEVER_CALLED = (
    "NRT_Free",
    "numba_do_raise",
    "numba_gil_ensure",
    "numba_gil_release",
    "numba_runtime_build_excinfo_struct",
    "numba_unpickle",
)
# How the names of functions begin that every process has.
_OF_PROCESS = ("Py", "calloc", "free", "llvm.", "sqrt")
_KEPT: list[llvm.ExecutionEngine] = []


@functools.cache
def address(module: str, function: str) -> int:
    """Return the address of a compiled function of `kinbayes.ode`, the same for all of the process."""
    path = _path(module, function)
    try:
        name, code = path.read_bytes().split(b"\n", 1)
    except OSError:
        return _from_numba(module, function, path)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _KEPT.append(engine)
    return engine.get_function_address(name.decode())


def _path(module: str, function: str) -> Path:
    versions = (sys.implementation.cache_tag, *map(importlib.metadata.version, ("numba", "llvmlite")))
    processor = (llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten())
    key = hashlib.sha256(repr((SOURCES, versions, processor)).encode()).hexdigest()[:16]
    return Path(__file__).parent / "__pycache__" / f"{module}.{function}-{key}.o"


def _machine() -> llvm.TargetMachine:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3, jit=True
    )


def _define(code: llvm.ModuleRef, functions: list[llvm.ValueRef]) -> None:
    """Give a module functions of its own, which stop the process, for those it only declares."""
    names = [function.name for function in functions]
    signatures = [re.match(r"declare (.*\))", str(function).strip())[1] for function in functions]
    stop = "{\n  call void @llvm.trap()\n  unreachable\n}"
    bodies = [f"define {signature} {stop}" for signature in signatures]
    code.link_in(llvm.parse_assembly("\n".join(["declare void @llvm.trap()", *bodies])))
    for name in names:
        code.get_function(name).linkage = llvm.Linkage.internal


def _from_numba(module: str, function: str, path: Path) -> int:
    """Return the address as numba loads or compiles the function; keep the code where it was compiled."""
    compiled = getattr(importlib.import_module(f"kinbayes.ode.{module}"), function)
    # Of code from its cache numba does not tell the content. Other systems name the functions of a process otherwise.
    if sys.platform == "linux" and not compiled.cache_hits:
        code = llvm.parse_assembly(compiled.inspect_llvm())
        _define(code, [f for f in code.functions if f.name in _NEVER_CALLED])
        if all(f.name.startswith(_OF_PROCESS) for f in code.functions if f.is_declaration):
            part = path.with_suffix(f".{uuid.uuid4().hex}")
            try:
                part.write_bytes(compiled.native_name.encode() + b"\n" + _machine().emit_object(code))
                part.replace(path)
            except OSError:  # no folder that can be written
                part.unlink(missing_ok=True)
    return compiled.address

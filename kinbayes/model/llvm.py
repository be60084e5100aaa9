"""Machine code of expressions: straight-line LLVM IR, compiled in memory by llvmlite."""

import struct
from collections.abc import Sequence
from typing import NamedTuple

import llvmlite.binding as llvm

from kinbayes.model import vector_math
from kinbayes.model.codegen import Program, program
from kinbayes.model.expressions import OPERATIONS, Expr, postorder

# NaN and infinity stay what they are: a step that holds one must never look like a good step. Sums are not reordered,
# since x + 1 - x would lose a NaN in x.
_FLAGS = "nsz arcp contract"
WIDTH = vector_math.WIDTH  # numbers of a vector
_LONGEST = 300  # statements of one function; the register allocator's time grows faster than a function's length
_LARGEST_POWER = 16  # x**n by multiplication up to here


class Function(NamedTuple):
    """A function `void name(const double* in…, double* out…)` whose arrays do not overlap.

    Attributes
    ----------
    name
        Its name in the module.
    inputs
        For every input array the symbols of its entries.
    outputs
        For every output array the expressions of its entries.
    vectors
        The input arrays whose entries are `WIDTH` numbers each. If there are any, those of the outputs are too: the
        function does for `WIDTH` points at once what it would do for one, in the last digits of powers and the like
        not quite the same (see `vector_math`).
    """

    name: str
    inputs: Sequence[Sequence[str]]
    outputs: Sequence[Sequence[Expr]]
    vectors: frozenset[int] = frozenset()


class MachineCode(NamedTuple):
    """Compiled functions; an address is good for as long as `owner` lives."""

    addresses: dict[str, int]
    owner: llvm.ExecutionEngine


def machine_code(functions: Sequence[Function], *, is_optimized: bool = True) -> MachineCode:
    """Return the functions as machine code of this processor.

    Parameters
    ----------
    functions
        The functions.
    is_optimized
        Whether to take the time that fast code takes. Without it compilation is twice as fast, and calls take up to
        half as long again.

    Raises
    ------
    ValueError
        If an expression uses a symbol that is no input of its function.
    """
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    for name, address in _special_functions(functions).items():
        llvm.add_symbol(name, address)
    module = llvm.parse_assembly(assembly(functions))
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=2 * is_optimized, jit=True
    )
    # Level 1: on this straight-line code the higher levels compile longer for nothing.
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=int(is_optimized)))
    builder.getModulePassManager().run(module, builder)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return MachineCode({f.name: engine.get_function_address(f.name) for f in functions}, engine)


def assembly(functions: Sequence[Function]) -> str:
    """Return the functions as the text of one LLVM module."""
    parts = [_function(function) for function in functions]
    declared = sorted({line for _, calls in parts for line in calls})
    return "\n".join([*(text for text, _ in parts), *declared])


def _special_functions(functions: Sequence[Function]) -> dict[str, int]:
    """Return the addresses of those functions in use that a C library need not have."""
    found = {node.op for node in postorder([root for f in functions for root in _roots(f)])} & _SPECIAL.keys()
    if not found:
        return {}
    from numba.extending import get_cython_function_address

    return {_LIBRARY[op][0]: get_cython_function_address("scipy.special.cython_special", _SPECIAL[op]) for op in found}


def _roots(function: Function) -> list[Expr]:
    return [root for array in function.outputs for root in array]


_SPECIAL = {
    "log_gamma": "gammaln",
    "digamma": "__pyx_fuse_1psi",
    "log_normal_cdf": "__pyx_fuse_1log_ndtr",
    "erfcx": "__pyx_fuse_1erfcx",
}

# Operation -> function of doubles, and its number of arguments.
_LIBRARY = {
    "pow": ("llvm.pow.f64", 2),
    "abs": ("llvm.fabs.f64", 1),
    "floor": ("llvm.floor.f64", 1),
    "ceil": ("llvm.ceil.f64", 1),
    "sqrt": ("llvm.sqrt.f64", 1),
    "exp": ("llvm.exp.f64", 1),
    "log": ("llvm.log.f64", 1),
    "log10": ("llvm.log10.f64", 1),
    "sin": ("llvm.sin.f64", 1),
    "cos": ("llvm.cos.f64", 1),
    # Unlike minnum and maxnum, these pass a NaN on.
    "min": ("llvm.minimum.f64", 2),
    "max": ("llvm.maximum.f64", 2),
    **{op: (op, 1) for op in ("tan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "asin", "acos", "atan")},
    "log_gamma": ("kinbayes_log_gamma", 1),
    "digamma": ("kinbayes_digamma", 1),
    "log_normal_cdf": ("kinbayes_log_normal_cdf", 1),
    "erfcx": ("kinbayes_erfcx", 1),
}
_ARITHMETIC = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_COMPARISONS = {"lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge", "eq": "oeq", "ne": "une"}
_LOGIC = {"and": "and", "or": "or"}


def _number(value: float) -> str:
    """Return a constant by its bits, so that none is rounded and NaN and infinity have a form."""
    return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"


def _function(function: Function) -> tuple[str, set[str]]:
    """Return the text of a function, in pieces of bearable length, and the declarations that it needs."""
    code = program(_roots(function))
    place = {s: (f"i{k}", at) for k, names in enumerate(function.inputs) for at, s in enumerate(names)}
    vectors = frozenset(f"i{k}" for k in function.vectors)
    if vectors:
        vectors |= {"s", *(f"o{k}" for k in range(len(function.outputs)))}
    unknown = sorted({value for op, _, value in code.instructions if op == "symbol"} - place.keys())
    if unknown:
        raise ValueError(f"function {function.name!r} uses {unknown}, which are none of its inputs")
    targets: dict[int, list[tuple[str, int]]] = {}
    flat = iter(code.outputs)
    for k, array in enumerate(function.outputs):
        for at in range(len(array)):
            targets.setdefault(next(flat), []).append((f"o{k}", at))
    steps = [k for k, (op, _, _) in enumerate(code.instructions) if op not in ("const", "symbol")]
    # What is no operation is stored first.
    plain = [k for k in targets if code.instructions[k][0] in ("const", "symbol")]
    pieces = [(plain if at == 0 else []) + steps[at : at + _LONGEST] for at in range(0, max(len(steps), 1), _LONGEST)]
    names = [f"{p}{k}" for p, arrays in (("i", function.inputs), ("o", function.outputs)) for k in range(len(arrays))]
    if len(pieces) == 1:
        writer = _Writer(code, place, {}, vectors)
        return _definition(function.name, names, writer.body(pieces[0], targets), ""), writer.calls
    slots = _crossing(code, pieces)
    calls: set[str] = set()
    texts = []
    for number, piece in enumerate(pieces):
        writer = _Writer(code, place, slots, vectors)
        texts.append(_definition(f"{function.name}.{number}", [*names, "s"], writer.body(piece, targets), "internal "))
        calls |= writer.calls
    arguments = ", ".join(f"ptr %{name}" for name in [*names, "s"])
    body = [f"%s = alloca [{len(slots) * (WIDTH if vectors else 1)} x double], align 64"]
    body += [f"call void @{function.name}.{number}({arguments})" for number in range(len(pieces))]
    return "\n".join([*texts, _definition(function.name, names, body, "")]), calls


def _definition(name: str, arguments: Sequence[str], body: Sequence[str], linkage: str) -> str:
    head = ", ".join(f"ptr noalias nocapture %{a}" for a in arguments)
    # Pieces are kept apart: inlined they would be one long function again.
    kept = "noinline " if linkage else ""
    return f"define {linkage}void @{name}({head}) {kept}nounwind {{\n" + "\n".join([*body, "ret void", "}"])


def _crossing(code: Program, pieces: Sequence[Sequence[int]]) -> dict[int, int]:
    """Return a place in memory for every register that a later piece reads."""
    home = {k: number for number, piece in enumerate(pieces) for k in piece}
    slots: dict[int, int] = {}
    for number, piece in enumerate(pieces):
        for k in piece:
            for a in code.instructions[k][1]:
                if a in home and home[a] != number:
                    slots.setdefault(a, len(slots))
    return slots


class _Writer:
    """The text of one piece: registers are written where they are first needed.

    With vectors among the arrays, what depends on one is a vector, and everything else a number that is spread out
    where it meets a vector.
    """

    def __init__(
        self, code: Program, place: dict[str, tuple[str, int]], slots: dict[int, int], vectors: frozenset[str]
    ) -> None:
        self.code = code
        self.place = place
        self.slots = slots
        self.vectors = vectors
        self.calls: set[str] = set()
        self.lines: list[str] = []
        self.known: dict[int, str] = {}
        self.wide: set[str] = set()  # registers that are vectors
        self.spread: dict[str, str] = {}  # register -> the vector of it
        self.count = 0

    def body(self, piece: Sequence[int], targets: dict[int, list[tuple[str, int]]]) -> list[str]:
        for k in piece:
            value = self.operation(k) if self.code.instructions[k][0] not in ("const", "symbol") else self.value(k)
            self.known[k] = value
            if k in self.slots or k in targets:
                number = self.new("uitofp {type} {0} to {double}", value, kind="i1") if self.is_boolean(k) else value
                where = [("s", self.slots[k])] if k in self.slots else []
                for array, at in where + targets.get(k, []):
                    self.store(number, array, at)
        return self.lines

    def is_boolean(self, k: int) -> bool:
        op = self.code.instructions[k][0]
        return op in OPERATIONS and OPERATIONS[op].is_boolean

    def new(self, text: str, *operands: str, kind: str = "double") -> str:
        """Write an instruction on operands of one kind, {0} and so on, and return its register.

        {type} is the operands' kind, {double} a number; both are vectors where an operand is one.
        """
        self.count += 1
        register = f"%v{self.count}"
        is_wide = any(operand in self.wide for operand in operands)
        if is_wide:
            operands = tuple(self.spread_out(operand, kind) for operand in operands)
            self.wide.add(register)
        types = {"type": _type(kind, is_wide), "double": _type("double", is_wide)}
        self.lines.append(f"{register} = {text.format(*operands, **types)}")
        return register

    def spread_out(self, operand: str, kind: str) -> str:
        """Return an operand as a vector."""
        if operand in self.wide:
            return operand
        if not operand.startswith("%"):
            return f"<{', '.join([f'{kind} {operand}'] * WIDTH)}>"
        if operand not in self.spread:
            vector = _type(kind, True)
            one = self.new(f"insertelement {vector} poison, {kind} {operand}, i32 0")
            all_ = self.new(f"shufflevector {vector} {one}, {vector} poison, <{WIDTH} x i32> zeroinitializer")
            self.wide.add(all_)
            self.spread[operand] = all_
        return self.spread[operand]

    def address(self, array: str, at: int) -> str:
        return self.new(f"getelementptr inbounds double, ptr %{array}, i64 {at * self.width(array)}")

    def width(self, array: str) -> int:
        return WIDTH if array in self.vectors else 1

    def load(self, array: str, at: int) -> str:
        is_wide = array in self.vectors
        register = self.new(f"load {_type('double', is_wide)}, ptr {self.address(array, at)}, align 8")
        if is_wide:
            self.wide.add(register)
        return register

    def store(self, number: str, array: str, at: int) -> None:
        is_wide = array in self.vectors
        number = self.spread_out(number, "double") if is_wide else number
        self.lines.append(f"store {_type('double', is_wide)} {number}, ptr {self.address(array, at)}, align 8")

    def value(self, k: int) -> str:
        """Return the register or constant that holds the result of instruction k."""
        if k not in self.known:
            op, _, value = self.code.instructions[k]
            if op == "const":
                self.known[k] = _number(value)
            else:
                loaded = self.load(*(self.place[value] if op == "symbol" else ("s", self.slots[k])))
                is_truth = self.is_boolean(k)
                self.known[k] = self.new("fcmp une {type} {0}, {1}", loaded, _number(0.0)) if is_truth else loaded
        return self.known[k]

    def operation(self, k: int) -> str:
        op, args, _ = self.code.instructions[k]
        if op == "pow" and (power := self.integer_power(*args)) is not None:
            return power
        values = [self.value(a) for a in args]
        if op in _ARITHMETIC:
            return self.new(f"{_ARITHMETIC[op]} {_FLAGS} {{type}} {{0}}, {{1}}", *values)
        if op in _COMPARISONS:
            return self.new(f"fcmp {_COMPARISONS[op]} {{type}} {{0}}, {{1}}", *values)
        if op in _LOGIC:
            return self.new(f"{_LOGIC[op]} {{type}} {{0}}, {{1}}", *values, kind="i1")
        return self.unusual(op, values)

    def unusual(self, op: str, values: list[str]) -> str:
        match op:
            case "neg":
                return self.new(f"fneg {_FLAGS} {{type}} {{0}}", *values)
            case "not":
                return self.new("xor {type} {0}, {1}", *values, "true", kind="i1")
            case "where":
                return self.select(*values)
            case "sign":  # of 0 and NaN: themselves
                (x,) = values
                below, above = (self.new(f"fcmp {c} {{type}} {{0}}, {{1}}", x, _number(0.0)) for c in ("olt", "ogt"))
                return self.select(above, _number(1.0), self.select(below, _number(-1.0), x))
        name, count = _LIBRARY[op]
        if not any(v in self.wide for v in values):
            return self.call(name, ["double"] * count, values)
        if op in vector_math.NAMES:
            self.calls |= {f"declare double @{name}({', '.join(['double'] * count)})", vector_math.definition(op)}
            wide = [self.spread_out(v, "double") for v in values]
            return self.call(f"kinbayes.{op}", [_type("double", True)] * count, wide)
        if name.startswith("llvm."):
            wide = [self.spread_out(v, "double") for v in values]
            return self.call(name.replace(".f64", f".v{WIDTH}f64"), [_type("double", True)] * count, wide)
        result = "poison"
        for at in range(WIDTH):
            parts = [self.element(v, at) if v in self.wide else v for v in values]
            one = self.call(name, ["double"] * count, parts)
            result = self.new(f"insertelement {_type('double', True)} {result}, double {one}, i32 {at}")
        self.wide.add(result)
        return result

    def select(self, condition: str, if_true: str, if_false: str) -> str:
        is_wide = condition in self.wide
        if is_wide or if_true in self.wide or if_false in self.wide:
            if_true, if_false = (self.spread_out(v, "double") for v in (if_true, if_false))
            number = _type("double", True)
            register = self.new(f"select {_type('i1', is_wide)} {condition}, {number} {if_true}, {number} {if_false}")
            self.wide.add(register)
            return register
        return self.new(f"select i1 {condition}, double {if_true}, double {if_false}")

    def element(self, vector: str, at: int) -> str:
        return self.new(f"extractelement {_type('double', True)} {vector}, i32 {at}")

    def call(self, name: str, types: Sequence[str], values: Sequence[str]) -> str:
        """Call a function of numbers or of vectors, with its result of the same kind."""
        if not name.startswith("kinbayes."):
            self.calls.add(f"declare {types[0]} @{name}({', '.join(types)})")
        arguments = ", ".join(f"{t} {v}" for t, v in zip(types, values, strict=True))
        register = self.new(f"call {types[0]} @{name}({arguments})")
        if types[0] != "double":
            self.wide.add(register)
        return register

    def integer_power(self, base: int, exponent: int) -> str | None:
        """Return x**n by repeated squaring; None where n is no small integer constant."""
        op, _, n = self.code.instructions[exponent]
        if op != "const" or not float(n).is_integer() or not 0 < abs(n) <= _LARGEST_POWER:
            return None
        square, result, left = self.value(base), None, int(abs(n))
        times = f"fmul {_FLAGS} {{type}} {{0}}, {{1}}"
        while left:
            if left & 1:
                result = square if result is None else self.new(times, result, square)
            left >>= 1
            if left:
                square = self.new(times, square, square)
        return result if n > 0 else self.new(f"fdiv {_FLAGS} {{type}} {{0}}, {{1}}", _number(1.0), result)


def _type(kind: str, is_wide: bool) -> str:
    return f"<{WIDTH} x {kind}>" if is_wide else kind

"""Compiles kernels to object code.

    python -m edge_rnn.kernels.build LIBRARY FILE

for the processor that EDGE_RNN_CPU names, which need not be this one: Numba makes LLVM's code of
the kernels, and LLVM machine code of that. It prints the name of each kernel as it begins. It leans
on Numba's insides, so it is a process of its own, with NUMBA_OPT=0: all is optimised once, at the
end.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils as _cgutils
from numba.core import codegen
from numba.core import event as _event
from numba.core.cpu import CPUContext
from numba.np import arrayobj as _arrayobj
from numba.np import numpy_support

from edge_rnn.kernels.cpu import LEVEL
from edge_rnn.kernels.entries import LIBRARIES, WRONG_TYPE, Array, Entry, Kind
from edge_rnn.kernels.jit import OPTIONS
from edge_rnn.kernels.native import HEADER, PYTHON_API

cgutils: Any = _cgutils  # untyped
event: Any = _event
arrayobj: Any = _arrayobj

TRIPLES = {"x86_64": "x86_64-unknown-linux-gnu", "aarch64": "aarch64-unknown-linux-gnu"}
_LIBRARY_CALLS = ("mem(cpy|move|set|cmp)$|bcmp$", r"llvm\.")
"""What else code may call: what C's library has to copy and compare memory, and LLVM's own."""
_FAST_MATH = re.compile(
    r"(?:= f\w+|\bcall\b[^\n@]*) (?:fast|nnan|ninf|nsz|arcp|contract|afn|reassoc) [^\n]*"
)

_INT, _LONG, _DOUBLE = ir.IntType(32), ir.IntType(64), ir.DoubleType()
_OBJECT = ir.IntType(8).as_pointer()
_DATA, _NDIM, _SHAPE, _STRIDES, _DESCR, _FLAGS = 16, 24, 32, 40, 56, 64
"""Where, by NumPy's ABI, an array has its fields (PyArrayObject_fields)."""
_BYTE_ORDER, _NUMBER = 26, 28
"""Fields of the array's type of elements (PyArray_Descr)."""
_CARRAY = 0x501  # NPY_ARRAY_CARRAY: C-contiguous, aligned, writable


def keep_code() -> None:
    """Have Numba keep LLVM's code as it writes it, and make no machine code or wrappers of it."""
    library: Any = codegen.JITCodeLibrary
    for step in ("_optimize_functions", "_optimize_final_module", "_finalize_specific"):
        setattr(library, step, lambda *_: None)
    library.get_pointer_to_function = lambda *_: 1
    context: Any = CPUContext
    context.create_cpython_wrapper = context.create_cfunc_wrapper = lambda *_, **__: None
    context.get_executable = lambda *_: [].append


def target_machine(cpu: str = LEVEL.target, features: str = LEVEL.features) -> Any:
    """What makes the level's machine code, for a CPU by LLVM's name."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple(TRIPLES[LEVEL.machine])
    return target.create_target_machine(
        cpu=cpu, features=features, opt=3, reloc="pic", codemodel="default"
    )


def compiled(function: Any, signature: Any) -> Any:
    """Numba's result for the function and a signature."""
    made = numba.njit(signature, **OPTIONS)(getattr(function, "py_func", function))
    return made.overloads[signature.args]


def optimised(results: Iterable[Any], machine: Any, wrappers: Iterable[Any] = ()) -> Any:
    """One LLVM module of functions with all that they call. Its symbols are the `wrappers` (IR
    modules of one function each); without any, the functions."""
    main, found = _parsed("", machine), list(results)
    for code in list(wrappers) or [r.library._final_module for r in found]:
        main.link_in(_parsed(str(code), machine))
    own = _defined(main) if wrappers else {r.fndesc.llvm_func_name for r in found}
    pool: dict[str, Any] = {}
    for result in found:
        _pool(result.library, pool, set())
    while needed := [pool[name] for name in _declared(main) if name in pool]:
        main.link_in(_shared(needed[0], machine))
    for f in main.functions:
        if not f.is_declaration:
            f.linkage = "external" if f.name in own else "internal"
    for variable in main.global_variables:
        if not variable.is_declaration:
            variable.linkage = "internal"
    _optimise(main, machine)
    return main


def main(library: str, file: str) -> None:
    """Write the library's object code into a file."""
    keep_code()
    event.register("numba:compile", _Teller())
    entries, machine = LIBRARIES[library], target_machine()
    results = [_compiled_entry(e) for e in entries]
    wrappers = [_wrapper(e, r) for e, r in zip(entries, results, strict=True)]
    module = optimised(results, machine, wrappers)
    if found := faults(str(module)):
        raise RuntimeError(f"kernels must not be compiled to this: {', '.join(found)}")
    Path(file).write_bytes(machine.emit_object(module))


def faults(code: str) -> list[str]:
    """What must not be in LLVM's code: flags that let a compiler change a float's bits, and
    functions that are neither in it nor where code is loaded, such as those of a libm."""
    flagged = _FAST_MATH.findall(code)
    outside = re.findall(r'^declare [^@]*@"?([\w.$]+)', code, re.MULTILINE)
    known = (*(f"{name}$" for name in PYTHON_API), *_LIBRARY_CALLS)
    return flagged + [name for name in outside if not re.match("|".join(known), name)]


class _Teller(_event.Listener):
    """Prints the name of a function of ours that begins to be compiled."""

    def on_start(self, event: Any) -> None:
        function = event.data["dispatcher"].py_func
        if function.__module__.startswith("edge_rnn.") and function.__name__ != "<lambda>":
            print(function.__name__, flush=True)

    def on_end(self, event: Any) -> None:
        pass


def _parsed(code: str, machine: Any) -> Any:
    module = llvm.parse_assembly(re.sub(r"target (triple|datalayout) = .*", "", code))
    module.triple, module.data_layout = machine.triple, str(machine.target_data)
    return module


def _shared(library: Any, machine: Any) -> Any:
    module = _parsed(str(library._final_module), machine)
    for f in module.functions:
        if not f.is_declaration:
            f.linkage = "linkonce_odr"
    return module


def _defined(module: Any) -> set[str]:
    return {f.name for f in module.functions if not f.is_declaration}


def _declared(module: Any) -> set[str]:
    return {f.name for f in module.functions if f.is_declaration}


def _pool(library: Any, pool: dict[str, Any], seen: set[int]) -> None:
    """Note by their names the functions of a library and of all that it calls."""
    seen.add(id(library))
    pool |= dict.fromkeys(_defined(library._final_module), library)
    for linked in library._linking_libraries:
        if id(linked) not in seen:
            _pool(linked, pool, seen)


def _optimise(module: Any, machine: Any) -> None:
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    builder.getModulePassManager().run(module, builder)
    module.verify()


def _compiled_entry(entry: Entry) -> Any:
    function = getattr(import_module(f"edge_rnn.kernels.{entry.module}"), entry.name)
    function.compile(tuple(_numba_type(kind) for kind in entry.kinds))
    return next(iter(function.overloads.values()))


def _numba_type(kind: Kind) -> Any:
    if isinstance(kind, Array):
        return types.Array(numpy_support.from_dtype(kind.dtype), kind.ndim, "C")
    return types.float64 if kind is float else types.int64


def _wrapper(entry: Entry, result: Any) -> Any:
    """An IR module with the function that `native` describes: it turns objects into what the
    compiled entry takes, without looking at more of an object than its type has."""
    context, signature = result.target_context, result.signature
    module = context.create_module(entry.name)
    callee_type = context.call_conv.get_function_type(signature.return_type, signature.args)
    callee = ir.Function(module, callee_type, result.fndesc.llvm_func_name)
    kind = ir.FunctionType(_OBJECT, [_OBJECT, _OBJECT.as_pointer(), _LONG])
    f = ir.Function(module, kind, entry.name)
    w = _Wrapper(f, ir.IRBuilder(f.append_basic_block("entry")))
    w.require(w.builder.icmp_signed("==", f.args[2], _LONG(len(entry.kinds))))
    values = [w.argument(context, i, kind) for i, kind in enumerate(entry.kinds)]
    w.raise_errors()
    thread = None if object in entry.kinds else w.call("PyEval_SaveThread", _OBJECT)
    status, out = context.call_conv.call_function(
        w.builder, callee, signature.return_type, signature.args, values
    )
    if thread is not None:
        w.call("PyEval_RestoreThread", ir.VoidType(), thread)
    if signature.return_type is types.none:
        out = _LONG(0)
    w.give(w.builder.select(status.is_error, _LONG(WRONG_TYPE), out))
    return module


class _Wrapper:
    """A function that is being written, which returns WRONG_TYPE where something is not as
    required."""

    def __init__(self, function: Any, builder: Any) -> None:
        self.function, self.builder = function, builder
        self.refused = function.append_basic_block("refused")
        with builder.goto_block(self.refused):
            self.give(_LONG(WRONG_TYPE))

    def require(self, condition: Any) -> None:
        following = self.function.append_basic_block()
        self.builder.cbranch(condition, following, self.refused)
        self.builder.position_at_end(following)

    def call(self, name: str, result: Any, *arguments: Any) -> Any:
        kind = ir.FunctionType(result, [a.type for a in arguments])
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, arguments)

    def give(self, number: Any) -> None:
        self.builder.ret(self.call("PyLong_FromLongLong", _OBJECT, number))

    def raise_errors(self) -> None:
        """Of numbers that are none."""
        error = self.call("PyErr_Occurred", _OBJECT)
        failed = self.builder.icmp_unsigned("!=", error, _OBJECT(None))
        with self.builder.if_then(failed, likely=False):
            self.builder.ret(_OBJECT(None))

    def argument(self, context: Any, i: int, kind: Kind) -> Any:
        o = self.builder.load(self.builder.gep(self.function.args[1], [_LONG(i)]))
        if isinstance(kind, Array):
            return self.array(context, o, kind)
        if kind is float:
            return self.call("PyFloat_AsDouble", _DOUBLE, o)
        if kind is object:
            return self.builder.ptrtoint(o, _LONG)
        return self.call("PyLong_AsLongLong", _LONG, o)

    def field(self, o: Any, offset: int, kind: Any) -> Any:
        at = self.builder.gep(o, [_LONG(offset)])
        return self.builder.load(self.builder.bitcast(at, kind.as_pointer()))

    def array(self, context: Any, o: Any, kind: Array) -> Any:
        b, ndim = self.builder, kind.ndim
        of = self.field(o, HEADER - 8, _OBJECT)
        self.require(b.icmp_unsigned("==", of, self.function.args[0]))
        self.require(b.icmp_signed("==", self.field(o, _NDIM, _INT), _INT(ndim)))
        flags = b.and_(self.field(o, _FLAGS, _INT), _INT(_CARRAY))
        self.require(b.icmp_signed("==", flags, _INT(_CARRAY)))
        descr = self.field(o, _DESCR, _OBJECT)
        self.require(b.icmp_signed("==", self.field(descr, _NUMBER, _INT), _INT(kind.dtype.num)))
        order = self.field(descr, _BYTE_ORDER, ir.IntType(8))
        self.require(b.icmp_signed("!=", order, ir.IntType(8)(ord(">"))))
        type_ = _numba_type(kind)
        made = context.make_array(type_)(context, b)
        shape, strides = (
            [self.field(self.field(o, at, _OBJECT), 8 * d, _LONG) for d in range(ndim)]
            for at in (_SHAPE, _STRIDES)
        )
        arrayobj.populate_array(
            made,
            data=b.bitcast(self.field(o, _DATA, _OBJECT), made.data.type),
            shape=cgutils.pack_array(b, shape),
            strides=cgutils.pack_array(b, strides),
            itemsize=_LONG(kind.dtype.itemsize),
            meminfo=None,
        )
        return made._getvalue()


if __name__ == "__main__":
    main(*sys.argv[1:])

"""What Python calls in place of a compiled kernel: a function that turns objects into what the
kernel takes, written in LLVM's code (see `native`)."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils as _cgutils
from numba.np import arrayobj as _arrayobj
from numba.np import numpy_support

from edge_rnn.kernels.context import BRIEF
from edge_rnn.kernels.entries import WRONG_TYPE, Array, Entry, Kind
from edge_rnn.kernels.native import HEADER

cgutils: Any = _cgutils  # untyped
arrayobj: Any = _arrayobj

_INT, _LONG, _DOUBLE = ir.IntType(32), ir.IntType(64), ir.DoubleType()
_OBJECT = ir.IntType(8).as_pointer()
_DATA, _NDIM, _SHAPE, _STRIDES, _DESCR, _FLAGS = 16, 24, 32, 40, 56, 64
"""Where, by NumPy's ABI, an array has its fields (PyArrayObject_fields)."""
_BYTE_ORDER, _NUMBER = 26, 28
"""Fields of the array's type of elements (PyArray_Descr)."""
_CARRAY = 0x501  # NPY_ARRAY_CARRAY: C-contiguous, aligned, writable


def numba_type(kind: Kind) -> Any:
    """Numba's type of an argument."""
    if isinstance(kind, Array):
        return types.Array(numpy_support.from_dtype(kind.dtype), kind.ndim, "C")
    return types.float64 if kind is float else types.int64


def wrapper(entry: Entry, result: Any) -> Any:
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
    thread = w.unlock(w.is_long(context, entry, values))
    status, out = context.call_conv.call_function(
        w.builder, callee, signature.return_type, signature.args, values
    )
    w.lock(thread)
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

    def is_long(self, context: Any, entry: Entry, values: list[Any]) -> Any:
        """Whether the call is worth handing over the interpreter's lock for."""
        if not entry.counted:
            return ir.IntType(1)(object not in entry.kinds)
        numbers, counted = (
            context.make_array(numba_type(entry.kinds[i]))(context, self.builder, values[i])
            for i in (0, entry.counted)
        )
        brief = self.builder.load(self.builder.gep(numbers.data, [_LONG(BRIEF)]))
        return self.builder.icmp_signed(">", counted.nitems, brief)

    def unlock(self, condition: Any) -> Any:
        """Give the interpreter's lock back where the condition holds -> the thread, or null."""
        held, b = self.builder.block, self.builder
        with b.if_then(condition):
            saved, given = self.call("PyEval_SaveThread", _OBJECT), b.block
        thread = b.phi(_OBJECT)
        thread.add_incoming(_OBJECT(None), held)
        thread.add_incoming(saved, given)
        return thread

    def lock(self, thread: Any) -> None:
        """Take the interpreter's lock again for a thread that gave it back."""
        with self.builder.if_then(self.builder.icmp_unsigned("!=", thread, _OBJECT(None))):
            self.call("PyEval_RestoreThread", ir.VoidType(), thread)

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
        type_ = numba_type(kind)
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

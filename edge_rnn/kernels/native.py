"""Object code in this process: functions that Python calls as it calls those of C extensions.

A function is a METH_FASTCALL one, (self, arguments, how many) -> object, whose `self` is the type
`numpy.ndarray`, so that it can tell arrays from other objects; `build` makes it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from edge_rnn.kernels.cpu import LEVEL, check

PYTHON_API = (
    "PyErr_Clear",
    "PyErr_Occurred",
    "PyEval_RestoreThread",
    "PyEval_SaveThread",
    "PyFloat_AsDouble",
    "PyLong_AsLongLong",
    "PyLong_FromLongLong",
    "PyObject_Hash",
    "PyUnicode_AsUTF8AndSize",
    "PyUnicode_Compare",
)
"""What the object code calls of Python."""

HEADER = 16
"""Bytes of an object before its own fields: a count of references and a type."""

_METH_FASTCALL = 0x80
_alive: list[Any] = []
"""Code and descriptions of functions, which are never freed: a function may outlive all else."""


class _Method(ctypes.Structure):
    """PyMethodDef."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


def load(code: bytes, names: Iterable[str]) -> dict[str, Callable[..., int]]:
    """The functions by these names in an object file for this processor.

    Raises RuntimeError where it can't run here.
    """
    check(LEVEL)
    if object.__basicsize__ != HEADER:
        raise RuntimeError("edge-rnn needs a CPython with a global interpreter lock")
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    for name in PYTHON_API:
        address = ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value
        llvm.add_symbol(name, address)
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.object_file.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _alive.append(engine)
    return {name: _function(name, engine.get_function_address(name)) for name in names}


def _function(name: str, address: int) -> Callable[..., int]:
    method = _Method(name.encode(), address, _METH_FASTCALL, None)
    _alive.append(method)
    new = ctypes.PYFUNCTYPE(
        ctypes.py_object, ctypes.POINTER(_Method), ctypes.py_object, ctypes.c_void_p
    )(("PyCFunction_NewEx", ctypes.pythonapi))
    function: Callable[..., int] = new(ctypes.byref(method), np.ndarray, None)
    return function

"""From a stream's id to its slot: a table with open addressing.

An entry of the index is 32 bits of an id's hash, Python's own, and a slot + 1; 0 is none. It stands
at the first free place from the one that its hash names, and half of the index is free at least.
The slot's id has a cache line of its own, and ids are compared whole. All of a call are looked up
together, each stage for many of them, so that what one needs from memory does not wait for another.

The interpreter's lock is held meanwhile. No code of Python's own is run: an id is a plain str.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numpy.typing import NDArray

from edge_rnn.kernels.context import ID, ID_ROOM, LONG, NAME, NAME_SIZE, SLOT
from edge_rnn.kernels.jit import kernel
from edge_rnn.kernels.memory import LINE
from edge_rnn.kernels.simd import address, function, lower
from edge_rnn.kernels.views import prefetch, viewer

I64 = NDArray[np.int64]

_TYPE, _LENGTH, _ITEMS = 8, 16, 24
"""Where, by CPython's ABI, an object has its type, a list or tuple its length, and a list its
items' addresses; a tuple has the items themselves there."""
_NAMES, _WIDTH, _STR, _LIST, _TUPLE, _SIZE = 2, 8, 9, 10, 11, 12
"""Where a context has the address of the names, a state's width, the addresses of types, and room
for a size."""
_TOGETHER, _NUMBERS = 64, 128
"""Ids that go through a stage of a look-up together; numbers of a state that are loaded ahead."""
_WRONG_TYPE = -1

_int64s, _names, _table, _floats = (viewer(kind) for kind in (np.int64, NAME, SLOT, np.float32))
_BYTES, _WORD, _INT = ir.IntType(8).as_pointer(), ir.IntType(64), ir.IntType(32)


@kernel
def find(context: I64, ids: int, handles: I64) -> int:
    """Fill in the handles (B,) of the streams with these ids, -1 where it is not open -> how many
    are not. -1 if `ids`, an object's address, is no list or tuple of B plain str."""
    items = _items(context, ids, handles.size)
    if not items:
        return _WRONG_TYPE
    missing = 0
    for first in range(0, handles.size, _TOGETHER):
        some = handles[first : first + _TOGETHER]
        missing += _find(context, items + 8 * first, some)
    return missing


@kernel
def enter(context: I64, name: int, slot: int) -> int:
    """Note that the stream of an id, a plain str, which is no open one's, is at a slot -> 1 if the
    str must stay alive as long."""
    index, names = _int64s(context, 0), _names(context, 1)
    mask, tag = index.size - 1, hashed(name) >> 32
    at = tag & mask
    while index[at]:
        at = (at + 1) & mask
    index[at] = tag << 32 | (slot + 1)
    text = _text(context, name)
    names[slot]["size"] = context[_SIZE] if text else LONG
    if text:
        move(_place(context, slot), text, context[_SIZE])
    else:
        names[slot]["long"] = name
    return 0 if text else 1


@kernel
def leave(context: I64, name: int, slot: int) -> int:
    """Forget the id of the open stream at a slot. What stands behind it moves up, so that no
    search for it ends at the place that becomes free."""
    index = _int64s(context, 0)
    mask, tag = index.size - 1, hashed(name) >> 32
    free = tag & mask
    while index[free] != tag << 32 | (slot + 1):
        free = (free + 1) & mask
    at = (free + 1) & mask
    while index[at]:
        home = index[at] >> 32 & mask
        if (at - home) & mask >= (at - free) & mask:
            index[free] = index[at]
            free = at
        at = (at + 1) & mask
    index[free] = 0
    return 0


@kernel
def _items(context: I64, ids: int, count: int) -> int:
    """Where the addresses of so many ids stand; 0 if they are not as `find` needs them."""
    kind = word(ids, _TYPE)
    if kind == context[_LIST]:
        items = word(ids, _ITEMS)
    elif kind == context[_TUPLE]:
        items = ids + _ITEMS
    else:
        return 0
    if word(ids, _LENGTH) != count:
        return 0
    for i in range(count):
        if word(word(items, 8 * i), _TYPE) != context[_STR]:
            return 0
    return items or ids  # of an empty list there are none


@kernel
def _find(context: I64, items: int, handles: I64) -> int:
    index, names, table = _int64s(context, 0), _names(context, 1), _table(context, 2)
    mask, missing = index.size - 1, 0
    for i in range(handles.size):
        name = word(items, 8 * i)
        prefetch_at(name + LINE)
        handles[i] = hashed(name) >> 32
        prefetch(index, handles[i] & mask)
    for i in range(handles.size):
        handles[i] = _next(index, handles[i], handles[i] & mask)
        _fetch(context, names, table, _slot(index[handles[i]]))
    for i in range(handles.size):
        handles[i] = _handle(context, index, names, table, word(items, 8 * i), handles[i])
        if handles[i] < 0:
            missing += 1
        else:  # being used, it leaves its neighbours
            prefetch(table, table[handles[i] & 0xFFFFFFFF]["newer"])
            prefetch(table, table[handles[i] & 0xFFFFFFFF]["older"])
    return missing


@kernel
def _fetch(context: I64, names: NDArray[Any], table: NDArray[Any], slot: int) -> None:
    """Have what is known of a stream loaded, and the state, which a step will need."""
    prefetch(names, slot)
    prefetch(table, slot)
    states, width = _floats(context, 3), context[_WIDTH]
    for line in range(0, min(width, _NUMBERS), LINE // 4):
        prefetch(states, slot * width + line)


@kernel
def _next(index: I64, tag: int, at: int) -> int:
    """The first place from there on whose hash it may be, or that is free."""
    while index[at] and index[at] >> 32 != tag:
        at = (at + 1) & (index.size - 1)
    return at


@kernel
def _slot(entry: int) -> int:
    return (entry & 0xFFFFFFFF) - 1


@kernel
def _handle(
    context: I64, index: I64, names: NDArray[Any], table: NDArray[Any], name: int, at: int
) -> int:
    """The handle of an id that stands at a place of the index or behind it, or -1."""
    while index[at]:
        slot = _slot(index[at])
        if _is(context, names, slot, name):
            return int(np.int64(table[slot]["generation"]) << 32 | slot)
        at = _next(index, index[at] >> 32, (at + 1) & (index.size - 1))
    return -1


@kernel
def _is(context: I64, names: NDArray[Any], slot: int, name: int) -> bool:
    """Is this the id of the stream at a slot?"""
    size = names[slot]["size"]
    if size == LONG:
        return same(names[slot]["long"], name)
    text = _text(context, name)
    return text != 0 and context[_SIZE] == size and alike(text, _place(context, slot), size)


@kernel
def _place(context: I64, slot: int) -> int:
    """Where the id of a slot's stream stands."""
    return int(context[_NAMES] + slot * NAME_SIZE + ID)


@kernel
def _text(context: I64, name: int) -> int:
    """Where an id's UTF-8 stands, its size noted; 0 if it is too long for a line."""
    if word(name, _LENGTH) > ID_ROOM:
        return 0
    text = utf8(name, context, _SIZE)
    return text if context[_SIZE] <= ID_ROOM else 0


def word(address: int, offset: int) -> int:
    """Eight bytes of memory."""
    return ctypes.c_int64.from_address(int(address) + offset).value


def prefetch_at(address: int) -> None:
    """Have a cache line loaded, for a use that comes soon."""


def hashed(name: int) -> int:
    """The hash of the str at an address."""
    return hash(_object(name))


def same(a: int, b: int) -> bool:
    """Are the str at two addresses equal?"""
    return bool(_object(a) == _object(b))


def utf8(name: int, sizes: I64, i: int) -> int:
    """Where the UTF-8 of the str at an address stands, its bytes in sizes[i]; 0 if there is none.
    Python keeps it as long as the str."""
    size = ctypes.c_ssize_t()
    try:
        at = _as_utf8(_object(name), ctypes.byref(size))
    except UnicodeEncodeError:
        return 0
    sizes[i] = size.value
    return int(at)


def alike(a: int, b: int, n: int) -> bool:
    """Are n bytes at two addresses equal?"""
    return ctypes.string_at(int(a), int(n)) == ctypes.string_at(int(b), int(n))


def move(to: int, address: int, n: int) -> None:
    """Copy n bytes."""
    ctypes.memmove(int(to), int(address), int(n))


def _object(address: int) -> Any:
    return ctypes.cast(int(address), ctypes.py_object).value


_as_utf8 = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.POINTER(ctypes.c_ssize_t))(
    ("PyUnicode_AsUTF8AndSize", ctypes.pythonapi)
)


def _word(typing: Any, where: Any, offset: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(builder.add(*args), _WORD.as_pointer()))

    return types.int64(types.int64, types.int64), generate


def _prefetch_at(typing: Any, where: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        f = function(builder, "llvm.prefetch.p0", ir.VoidType(), _BYTES, _INT, _INT, _INT)
        at = builder.inttoptr(args[0], _BYTES)
        builder.call(f, [at, _INT(0), _INT(3), _INT(1)])  # for reading, to stay, data
        return context.get_dummy_value()

    return types.void(types.int64), generate


def _hashed(typing: Any, name: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        f = function(builder, "PyObject_Hash", _WORD, _BYTES)
        return builder.call(f, [builder.inttoptr(args[0], _BYTES)])

    return types.int64(types.int64), generate


def _same(typing: Any, a: Any, b: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        f = function(builder, "PyUnicode_Compare", _INT, _BYTES, _BYTES)
        compared = builder.call(f, [builder.inttoptr(a, _BYTES) for a in args])
        return builder.icmp_signed("==", compared, _INT(0))

    return types.boolean(types.int64, types.int64), generate


def _utf8(typing: Any, name: Any, sizes: Any, i: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        size = address(builder, context, sizes, args[1], args[2], _WORD)
        f = function(builder, "PyUnicode_AsUTF8AndSize", _BYTES, _BYTES, size.type)
        at = builder.call(f, [builder.inttoptr(args[0], _BYTES), size])
        with builder.if_then(builder.icmp_unsigned("==", at, _BYTES(None)), likely=False):
            builder.call(function(builder, "PyErr_Clear", ir.VoidType()), [])
        return builder.ptrtoint(at, _WORD)

    return types.int64(types.int64, sizes, types.int64), generate


def _alike(typing: Any, a: Any, b: Any, n: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        f = function(builder, "memcmp", _INT, _BYTES, _BYTES, _WORD)
        given = [*(builder.inttoptr(a, _BYTES) for a in args[:2]), args[2]]
        return builder.icmp_signed("==", builder.call(f, given), _INT(0))

    return types.boolean(types.int64, types.int64, types.int64), generate


def _move(typing: Any, to: Any, where: Any, n: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        f = function(builder, "memmove", _BYTES, _BYTES, _BYTES, _WORD)
        builder.call(f, [*(builder.inttoptr(a, _BYTES) for a in args[:2]), args[2]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


lower(word, _word)
lower(prefetch_at, _prefetch_at)
lower(hashed, _hashed)
lower(same, _same)
lower(utf8, _utf8)
lower(alike, _alike)
lower(move, _move)

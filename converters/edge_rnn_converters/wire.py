"""Protocol buffers' wire format, as far as reading a few known fields takes; see
https://protobuf.dev/programming-guides/encoding. Damage is a ValueError, which `source.reading`
makes an error that names the file; nothing is copied."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

Field: TypeAlias = int | memoryview
"""The value of a number's field, or the bytes of any other, four or eight of a fixed one."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """(the number that stands at `at`, where the next thing stands). Raises ValueError."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & ((1 << 64) - 1), at
    raise ValueError("a number is cut off, or longer than 64 bits")


def fields(data: memoryview) -> Iterator[tuple[int, Field]]:
    """(number, value) of each field of a message, in the file's order. Raises ValueError."""
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        if tag >> 32:  # other readers take its lower half for another field's
            raise ValueError(f"there is no field {tag >> 3}")
        kind = tag & 7
        if kind == _VARINT:
            value, at = varint(data, at)
            yield tag >> 3, value
            continue
        if kind != _BYTES and kind not in _FIXED:
            raise ValueError(f"field {tag >> 3} is of the unknown kind {kind}")
        size, at = varint(data, at) if kind == _BYTES else (_FIXED[kind], at)
        if size > len(data) - at:
            raise ValueError(f"field {tag >> 3} has {size} bytes, {len(data) - at} are left")
        yield tag >> 3, data[at : at + size]
        at += size


def messages(data: memoryview, number: int) -> Iterator[memoryview]:
    """The bytes of each field of this number: messages, or texts."""
    for found, value in fields(data):
        if found == number and isinstance(value, memoryview):
            yield value


def text(data: memoryview, number: int) -> str:
    """The last text of this number, "" where there is none, as protocol buffers have it."""
    return str(([memoryview(b""), *messages(data, number)])[-1], "utf-8")


def whole(data: memoryview, number: int) -> int:
    """The last number of this number's field, 0 where there is none."""
    return ([0, *(v for n, v in fields(data) if n == number and isinstance(v, int))])[-1]


def wholes(data: memoryview, number: int) -> Iterator[int]:
    """Every number of a repeated field: by itself, or many packed into bytes."""
    for found, value in fields(data):
        if found == number and isinstance(value, int):
            yield value
        elif found == number and isinstance(value, memoryview):
            at = 0
            while at < len(value):
                one, at = varint(value, at)
                yield one


def signed(value: int) -> int:
    """A number of 64 bits as protocol buffers mean an int64."""
    return value - (1 << 64) if value >> 63 else value


def message(number: int, data: bytes | memoryview) -> bytes:
    """A field of this number that holds a message, or a text."""
    return _written(number << 3 | _BYTES) + _written(len(data)) + bytes(data)


def _written(value: int) -> bytes:
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])

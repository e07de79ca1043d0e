"""Changes to model files that keep enough of their form for their readers to get far.

Random bytes mostly end at the first check. So a change is made where a form is understood: in a
field of a protobuf message or a FlatBuffers table, in JSON, in a line of code, in an opcode of a
pickle, in a member of a zip; in plain bytes too, one time out of four.
"""

from __future__ import annotations

import copy
import io
import json
import pickletools
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Any, TypeAlias

import numpy as np

Mutator: TypeAlias = Callable[[bytes, random.Random], bytes]

NUMBERS = [0, 1, -1, 2, 3, 7, 8, 127, 128, 255, 256, 1000, 65535, 1 << 20, (1 << 31) - 1, 1 << 31,
           -(1 << 31), 1 << 32, (1 << 63) - 1, -(1 << 63), (1 << 64) - 1]  # fmt: skip
FLOATS = [0.0, -1.0, 1e-300, 1e300, float("nan"), float("inf"), float("-inf")]


def mutated(blob: bytes, kind: str, rng: random.Random) -> bytes:
    """A file of this kind (see KINDS) with one to four changes."""
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        change = raw if rng.random() < 0.25 else KINDS.get(kind, raw)
        blob = change(blob, rng)
    return blob


def raw(blob: bytes, rng: random.Random) -> bytes:
    """Bytes, words, a piece moved, doubled or taken out, an end cut off."""
    if not blob:
        return blob
    b, at = bytearray(blob), rng.randrange(len(blob))
    match rng.randrange(6):
        case 0:
            b[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        case 1:
            b[at] ^= 1 << rng.randrange(8)
        case 2:
            size = rng.choice([2, 4, 8])
            start = at & -size
            b[start : start + size] = _word(rng, size)
        case 3:
            del b[at : at + rng.choice([1, 4, 16, 256])]
        case 4:
            piece = b[at : at + rng.choice([1, 4, 16, 256])]
            to = rng.randrange(len(b))
            b[to:to] = piece
        case _:
            if rng.random() < 0.2:
                del b[at:]
            else:
                size, to = rng.choice([4, 8, 64]), rng.randrange(len(b))
                b[to : to + size] = b[at : at + size]
    return bytes(b)


def _word(rng: random.Random, size: int) -> bytes:
    return (rng.choice(NUMBERS) % (1 << 8 * size)).to_bytes(size, "little")


def _number(rng: random.Random, near: int | float) -> int | float:
    """Another number, of the same kind and often close by."""
    if isinstance(near, float):
        return rng.choice([*FLOATS, -near, near * 10, near / 10])
    return rng.choice([*NUMBERS, near + 1, near - 1, -near, 2 * near, near // 2])


Field: TypeAlias = tuple[int, int, Any]
"""Its number, its wire type, an integer or its bytes."""


def protobuf(blob: bytes, rng: random.Random) -> bytes:
    """A field, anywhere in the message or in a message inside it, changed, dropped or doubled."""
    fields = _parsed(blob)
    if not fields:
        return raw(blob, rng)
    at = rng.randrange(len(fields))
    number, wire, value = fields[at]
    if wire == 2 and len(value) > 1 and rng.random() < 0.85 and _parsed(value):
        fields[at] = (number, wire, protobuf(value, rng))
        return _encoded(fields)
    match rng.randrange(6):
        case 0:
            del fields[at]
        case 1:
            fields.insert(rng.randrange(len(fields) + 1), fields[at])
        case 2:
            other = rng.randrange(len(fields))
            fields[at], fields[other] = fields[other], fields[at]
        case 3:
            fields[at] = (rng.choice([number + 1, number - 1, fields[0][0]]) % 64 or 1, wire, value)
        case _:
            fields[at] = (number, wire, _value(wire, value, fields, rng))
    return _encoded(fields)


def _value(wire: int, value: Any, fields: list[Field], rng: random.Random) -> Any:
    if wire == 0:
        return _number(rng, value) % (1 << 64)
    same = [v for _, w, v in fields if w == wire]
    return rng.choice([rng.choice(same), raw(value, rng)[: len(value) if wire != 2 else None]])


def _parsed(blob: bytes) -> list[Field] | None:
    """The fields of a message, None for what is none."""
    fields: list[Field] = []
    at = 0
    while at < len(blob):
        tag, at = _varint(blob, at)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 1 << 14 or wire not in (0, 1, 2, 5):
            return None
        if wire == 0:
            value, at = _varint(blob, at)
            fields.append((number, wire, value))
            continue
        size = {1: 8, 5: 4}.get(wire, 0)
        if wire == 2:
            size, at = _varint(blob, at)
        if at + size > len(blob):
            return None
        fields.append((number, wire, blob[at : at + size]))
        at += size
    return fields


def _varint(blob: bytes, at: int) -> tuple[int, int]:
    """The number at a place, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(blob):
            return 0, len(blob) + 1
        value |= (blob[at] & 0x7F) << shift
        at += 1
        if blob[at - 1] < 0x80:
            break
    return value, at


def _encoded(fields: list[Field]) -> bytes:
    out = bytearray()
    for number, wire, value in fields:
        out += _as_varint(number << 3 | wire)
        if wire == 0:
            out += _as_varint(value)
            continue
        out += (_as_varint(len(value)) if wire == 2 else b"") + value
    return bytes(out)


def _as_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def tflite(blob: bytes, rng: random.Random) -> bytes:
    """A field of a table changed; sometimes one that FlatBuffers can't pack, then bytes."""
    from ai_edge_litert import schema_py_generated as schema
    from flatbuffers import Builder

    try:
        model = schema.ModelT.InitFromPackedBuf(blob)
        holder, key = rng.choice(list(_slots(model)))
        _change(holder, key, rng)
        builder = Builder(len(blob))
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())
    except Exception:  # of a file changed before, or a value that does not fit its field
        return raw(blob, rng)


def _slots(thing: Any) -> Iterator[tuple[Any, Any]]:
    """Every (holder, key) below a tree of objects, dictionaries and lists; arrays are leaves."""
    if isinstance(thing, dict):
        items = list(thing.items())
    elif isinstance(thing, list):
        items = list(enumerate(thing))
    else:
        thing = getattr(thing, "__dict__", {})
        items = list(thing.items())
    for key, value in items:
        yield thing, key
        yield from _slots(value)


def _change(holder: Any, key: Any, rng: random.Random) -> None:
    """Give one place of a tree another value."""
    value = holder[key]
    if isinstance(value, bool):
        holder[key] = rng.choice([not value, None, 2])
    elif isinstance(value, int | float | np.generic):
        holder[key] = _number(rng, value.item() if isinstance(value, np.generic) else value)
    elif isinstance(value, np.ndarray) and value.size:
        changed = value.copy()
        place = rng.randrange(changed.size)
        info = np.iinfo(value.dtype) if value.dtype.kind in "iu" else None
        near = _number(rng, changed.flat[place].item())
        changed.flat[place] = near if info is None else min(max(near, info.min), info.max)
        holder[key] = rng.choice([changed, changed[:place], np.append(value, changed[place:])])
    elif isinstance(value, list) and value:
        _change_list(value, rng)
    elif isinstance(value, str) and rng.random() < 0.5:
        holder[key] = text(value.encode(), rng).decode(errors="replace")
    else:
        _replace(holder, key, rng)


def _change_list(values: list[Any], rng: random.Random) -> None:
    at = rng.randrange(len(values))
    match rng.randrange(3):
        case 0:
            del values[at]
        case 1:
            values.insert(rng.randrange(len(values) + 1), copy.deepcopy(values[at]))
        case _:
            other = rng.randrange(len(values))
            values[at], values[other] = values[other], values[at]


def _replace(holder: Any, key: Any, rng: random.Random) -> None:
    """By its neighbour, by nothing, by something else, or take it out."""
    keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
    new = rng.choice([copy.deepcopy(holder[rng.choice(keys)]), None, 0, -1, "", [], {}, "x" * 300])
    if rng.random() < 0.2:
        del holder[key]
    else:
        holder[key] = new


def jsonish(blob: bytes, rng: random.Random) -> bytes:
    """A value of JSON, anywhere in it, changed, replaced, dropped or doubled."""
    try:
        tree = [json.loads(blob)]
    except ValueError:
        return raw(blob, rng)
    holder, key = rng.choice([*_slots(tree)][1:] or [(tree, 0)])
    _change(holder, key, rng)
    return json.dumps(tree[0] if tree else None).encode()


def text(blob: bytes, rng: random.Random) -> bytes:
    """Words and numbers swapped, lines dropped and doubled."""
    split = b"\n" if rng.random() < 0.3 else b" "
    parts = blob.split(split)
    at = rng.randrange(len(parts))
    digits = [i for i, c in enumerate(blob) if 48 <= c < 58]
    match rng.randrange(4):
        case 0:
            del parts[at]
        case 1:
            parts.insert(rng.randrange(len(parts)), parts[at])
        case 2 if digits:
            place = rng.choice(digits)
            return blob[:place] + str(rng.choice(NUMBERS)).encode() + blob[place + 1 :]
        case _:
            parts[at] = rng.choice(parts)
    return split.join(parts)


def pickled(blob: bytes, rng: random.Random) -> bytes:
    """An opcode of a pickle dropped, doubled, swapped, or with another argument."""
    try:
        starts = [at for _, _, at in pickletools.genops(blob) if at is not None]
    except Exception:  # whatever pickletools says of a pickle that was changed before
        return raw(blob, rng)
    ends = [*starts[1:], len(blob)]
    codes = [blob[a:b] for a, b in zip(starts, ends, strict=True)]
    at = rng.randrange(len(codes))
    match rng.randrange(4):
        case 0:
            del codes[at]
        case 1:
            codes.insert(rng.randrange(len(codes)), codes[at])
        case 2:
            codes[at] = rng.choice(codes)
        case _:
            numbers = [i for i, code in enumerate(codes) if code[:1] in b"KMJ"]
            i = rng.choice(numbers or [at])
            codes[i] = b"J" + _word(rng, 4) if numbers else raw(codes[i], rng)
    return b"".join(codes)


def safetensors(blob: bytes, rng: random.Random) -> bytes:
    """Its header of JSON, sized anew."""
    size = int.from_bytes(blob[:8], "little")
    if rng.random() < 0.1 or size > len(blob):
        return raw(blob, rng)
    head = jsonish(blob[8 : 8 + size], rng)
    return struct.pack("<Q", len(head)) + head + blob[8 + size :]


def npy(blob: bytes, rng: random.Random) -> bytes:
    """Its header, sized anew."""
    size = int.from_bytes(blob[8:10], "little")
    head = text(blob[10 : 10 + size], rng)[:65535]
    return blob[:8] + struct.pack("<H", len(head)) + head + blob[10 + size :]


def hdf5(blob: bytes, rng: random.Random) -> bytes:
    """The configuration in it, a dataset or an attribute; or words, as all of HDF5 is."""
    import h5py

    if rng.random() < 0.5:
        return raw(blob, rng)
    stream = io.BytesIO(blob)
    try:
        with h5py.File(stream, "r+") as f:
            config = f.attrs.get("model_config")
            if config is not None and rng.random() < 0.6:
                f.attrs["model_config"] = jsonish(bytes(config), rng)
            else:
                _change_object(f, rng)
        return stream.getvalue()
    except Exception:  # whatever h5py says of a file that was changed before
        return raw(blob, rng)


def _change_object(f: Any, rng: random.Random) -> None:
    names: list[str] = []
    f.visit(names.append)
    name = rng.choice(names)
    match rng.randrange(5):
        case 0:
            del f[name]
        case 1:
            f.move(name, rng.choice(names) + "x")
        case 2:
            attributes = f[name].attrs
            if keys := list(attributes):
                del attributes[rng.choice(keys)]
        case _:
            shape = f[name].shape if hasattr(f[name], "shape") else (2,)
            wide = tuple(max(0, n + rng.choice([-1, 0, 1])) for n in shape)
            kind = rng.choice(["f4", "f8", "f2", "i4", "S3", "?"])
            del f[name]
            f[name] = np.ones(rng.choice([wide, wide[::-1], wide[:-1]])).astype(kind)


MEMBERS: dict[str, Mutator] = {".json": jsonish, ".h5": hdf5, ".npy": npy, ".py": text,
                               ".pkl": pickled}  # fmt: skip


def zipped(blob: bytes, rng: random.Random) -> bytes:
    """A member of a zip by its own form, its name, or whether it is there."""
    try:
        with zipfile.ZipFile(io.BytesIO(blob)) as z:
            members = [(i.filename, z.read(i)) for i in z.infolist()]
    except Exception:  # whatever zipfile says of a file that was changed before
        return raw(blob, rng)
    known = [i for i, (name, _) in enumerate(members) if PurePath(name).suffix in MEMBERS]
    at = rng.choice(known) if known and rng.random() < 0.85 else rng.randrange(len(members))
    name, data = members[at]
    if (dice := rng.random()) < 0.04:
        del members[at]
    elif dice < 0.08:
        members[at] = (rng.choice(members)[0] + "x" * (dice < 0.06), data)
    else:
        members[at] = (name, MEMBERS.get(PurePath(name).suffix, raw)(data, rng))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        for name, data in members:
            z.writestr(zipfile.ZipInfo(name), data)
    return out.getvalue()


KINDS: dict[str, Mutator] = {
    "onnx": protobuf, "tflite": tflite, "h5": hdf5, "zip": zipped, "safetensors": safetensors,
    "pickle": pickled,
}  # fmt: skip
"""How the files of a kind are changed where their form is understood."""

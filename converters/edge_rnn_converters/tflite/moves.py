"""TFLite operators that move elements, or compute shapes."""

from __future__ import annotations

import numpy as np

from edge_rnn_converters.refused import TFLITE_REFUSED, UNKNOWN
from edge_rnn_converters.tensors.graph import Op
from edge_rnn_converters.tflite.file import Operator
from edge_rnn_converters.tflite.translate import END, Translation, operator

_MOVES = "moves axes, or computes shapes"


@operator("RESHAPE", _MOVES)
def _reshape(t: Translation, o: Operator) -> None:
    if len(o.inputs) > 1 and o.inputs[1] >= 0:
        shape = t.name(o.inputs[1])
    else:
        shape = t.constant(o.options["newShape"])
    t.result(o, "Reshape", t.name(o.inputs[0]), shape, allowzero=1)


@operator("SQUEEZE", _MOVES)
def _squeeze(t: Translation, o: Operator) -> None:
    at = o.options.get("squeezeDims")
    x = t.name(o.inputs[0])
    t.result(o, "Squeeze", x, *([] if at is None or not len(at) else [t.constant(at)]))


@operator("EXPAND_DIMS", _MOVES)
def _expand_dims(t: Translation, o: Operator) -> None:
    t.result(o, "Unsqueeze", t.name(o.inputs[0]), t.constant(t.known(o, 1, "axis").reshape(-1)))


@operator("TRANSPOSE", _MOVES)
def _transpose(t: Translation, o: Operator) -> None:
    t.result(o, "Transpose", t.name(o.inputs[0]), perm=t.known(o, 1, "perm").tolist())


@operator("CONCATENATION", _MOVES)
def _concatenation(t: Translation, o: Operator) -> None:
    t.result(o, "Concat", *(t.name(i) for i in o.inputs), axis=int(o.options["axis"]))


@operator("PACK", _MOVES)
def _pack(t: Translation, o: Operator) -> None:
    axis = int(o.options["axis"])
    parts = [t.op(o, "Unsqueeze", t.name(i), t.constant([axis])) for i in o.inputs]
    t.result(o, "Concat", *parts, axis=axis)


@operator("UNPACK", _MOVES)
def _unpack(t: Translation, o: Operator) -> None:
    axis, n = int(o.options["axis"]), len(o.outputs)
    parts = [t.names.unique(f"{t.label(o)} part") for _ in range(n)]
    t.op(o, "Split", t.name(o.inputs[0]), t.constant([1] * n), to=parts, axis=axis)
    for part, output in zip(parts, o.outputs, strict=True):
        t.op(o, "Squeeze", part, t.constant([axis]), to=[t.name(output)])


@operator("SPLIT SPLIT_V", _MOVES)
def _split(t: Translation, o: Operator) -> None:
    """SPLIT reads the axis first; SPLIT_V the data, the sizes, the axis."""
    which, data = (0, 1) if o.kind == "SPLIT" else (2, 0)
    axis, x = int(t.known(o, which, "axis").reshape(())), o.inputs[data]
    n, size = len(o.outputs), t.tensor(x).shape[axis]
    if o.kind == "SPLIT_V":
        sizes = t.known(o, 1, "sizes").tolist()
    elif size is None:
        raise t.refuse(o, "input", "has an open size along the axis", "convert with fixed shapes")
    else:
        sizes = [size // n] * n
    outputs = [t.name(i) for i in o.outputs]
    t.op(o, "Split", t.name(x), t.constant(sizes), to=outputs, axis=axis)


@operator("SLICE", _MOVES)
def _slice(t: Translation, o: Operator) -> None:
    """`sizes` elements from `begin` on; a size of -1 means all that are left."""
    x, begin, sizes = (t.name(i) for i in o.inputs)
    axes = t.constant(range(len(t.tensor(o.inputs[0]).shape)))
    if begin in t.constants and sizes in t.constants:
        starts, lengths = t.constants[begin], t.constants[sizes]
        ends = t.constant(np.where(lengths < 0, END, starts + lengths))
    else:
        all_left = t.op(o, "Equal", sizes, t.constant(-1))
        ends = t.op(o, "Where", all_left, t.constant(END), t.op(o, "Add", begin, sizes))
    t.result(o, "Slice", x, begin, ends, axes)


@operator("STRIDED_SLICE", _MOVES)
def _strided_slice(t: Translation, o: Operator) -> None:
    for mask in ("ellipsisMask", "newAxisMask"):
        if o.options[mask]:
            raise t.refuse(o, mask, *UNKNOWN)
    if _one_place(t, o):
        return
    begin, end, strides = (
        t.known(o, i, n).tolist() for i, n in enumerate(("begin", "end", "strides"), 1)
    )
    shrunk = []
    for i, stride in enumerate(strides):
        if o.options["shrinkAxisMask"] >> i & 1:
            shrunk.append(i)
            end[i] = begin[i] + 1 if begin[i] != -1 else END
            continue
        if o.options["beginMask"] >> i & 1:
            begin[i] = 0 if stride > 0 else END
        if o.options["endMask"] >> i & 1:
            end[i] = END if stride > 0 else -END
    cut = [t.constant(v) for v in (begin, end, range(len(begin)), strides)]
    x = t.name(o.inputs[0])
    if shrunk:
        t.result(o, "Squeeze", t.op(o, "Slice", x, *cut), t.constant(shrunk))
    else:
        t.result(o, "Slice", x, *cut)


def _one_place(t: Translation, o: Operator) -> bool:
    """Takes one place, which is computed, along some axes and all of the others: x[:, t]."""
    begin, whole = t.name(o.inputs[1]), o.options["beginMask"] & o.options["endMask"]
    (told,) = t.tensor(o.inputs[1]).shape
    axes = [i for i in range(told or 0) if o.options["shrinkAxisMask"] >> i & 1]
    every = all(whole >> i & 1 for i in range(told or 0) if i not in axes)
    if begin in t.constants or not axes or not every:
        return False
    first = t.op(o, "Gather", begin, t.constant(axes), axis=0)
    last = t.op(o, "Add", first, t.constant([1] * len(axes), np.int32))
    row = t.op(o, "Slice", t.name(o.inputs[0]), first, last, t.constant(axes))
    t.result(o, "Squeeze", row, t.constant(axes))
    return True


@operator("REVERSE_V2", "of the steps of a window")
def _reverse(t: Translation, o: Operator) -> None:
    axes = t.known(o, 1, "axes").reshape(-1)
    n = len(axes)
    cut = [t.constant(v) for v in ([-1] * n, [-END] * n, axes, [-1] * n)]
    t.result(o, "Slice", t.name(o.inputs[0]), *cut)


@operator("GATHER", "a table by the input (an embedding); single steps")
def _gather(t: Translation, o: Operator) -> None:
    if o.options.get("batchDims"):
        raise t.refuse(o, "batchDims", *UNKNOWN)
    data, index = (t.name(i) for i in o.inputs)
    t.result(o, "Gather", data, index, axis=int(o.options.get("axis", 0)))


@operator("SELECT SELECT_V2", "where Keras 3 counts an embedding's negative indices from the end")
def _select(t: Translation, o: Operator) -> None:
    """As ONNX's Gather does by itself: the index is handed on."""
    test, from_end, index = (t.name(i) for i in o.inputs)
    makers = {name: op for op in t.operators for name in op.outputs}
    less, added = makers.get(test), makers.get(from_end)
    negative = less is not None and less.kind == "Less" and less.inputs[0] == index
    zero = less is not None and not np.any(t.constants.get(less.inputs[-1], np.ones(1)))
    moved = added is not None and added.kind == "Add" and index in added.inputs
    if not (negative and zero and moved):
        raise t.refuse(o, "operator", *TFLITE_REFUSED[o.kind])
    t.result(o, "Identity", index)


@operator("EMBEDDING_LOOKUP", "a table by the input")
def _embedding(t: Translation, o: Operator) -> None:
    t.result(o, "Gather", t.name(o.inputs[1]), t.name(o.inputs[0]), axis=0)


@operator("CAST", "to float32; to integers before an embedding")
def _cast(t: Translation, o: Operator) -> None:
    to = t.tensor(o.outputs[0]).dtype
    if to is None:
        raise t.refuse(o, "type", *UNKNOWN)
    x, y = t.name(o.inputs[0]), t.name(o.outputs[0])
    t.operators.append(Op("Cast", t.label(o), (x,), (y,), {"to": to}))

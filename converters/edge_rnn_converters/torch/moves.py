"""ATen operators that move elements or only rename them."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_rnn_converters.torch.build import MANY, AtenOperators, Builder, axis, index
from edge_rnn_converters.torch.program import Extent, Open, Step, Tensor

operator = AtenOperators()

_AXES = "moves axes"


@operator("contiguous clone to.dtype to.device to.dtype_layout to.other "
          "to.prim_Device to.prim_dtype _to_copy type_as float long int",
          "nothing, or a cast")  # fmt: skip
def _same(g: Builder, op: Step) -> str:
    x, y = op.arguments["self"], op.outputs[0]
    value = g.value(x)
    return value if x.dtype == y.dtype else g("Cast", value, to=y.dtype)


@operator("copy_", "of a whole tensor")
def _copy(g: Builder, op: Step) -> str:
    to, source = op.arguments["self"], op.arguments["src"]
    if to.shape != source.shape or to.dtype != source.dtype:
        raise op.refuse("src", "is of another shape or type", "copy equal tensors")
    return g.value(source)


@operator("dropout dropout_ feature_dropout alpha_dropout feature_alpha_dropout", "dropped")
def _dropout(g: Builder, op: Step) -> str:
    if op.arguments["train"] and op.arguments["p"]:
        raise op.refuse("train", "is on", "call eval() on the model before saving it")
    return g.value(op.arguments["input"])


@operator("view reshape _unsafe_view _reshape_alias flatten.using_ints unflatten.int view_as "
          "reshape_as", _AXES)  # fmt: skip
def _reshape(g: Builder, op: Step) -> str:
    x = op.arguments["self"]
    return g("Reshape", g.value(x), g.shape(op, op.outputs[0].shape, x))


@operator("permute transpose.int swapaxes t numpy_T mT movedim.int swapdims", _AXES)
def _permute(g: Builder, op: Step) -> str:
    a, x = op.arguments, op.arguments["self"]
    rank = len(x.shape)
    order = list(range(rank))
    match op.target.split(".")[1]:
        case "permute":
            order = [d % rank for d in a["dims"]]
        case "movedim":
            order.insert(a["destination"] % rank, order.pop(a["source"] % rank))
        case "transpose" | "swapaxes" | "swapdims":
            names = [n for n in a if n != "self"]
            i, j = (a[n] % rank for n in names)
            order[i], order[j] = order[j], order[i]
        case "t" | "numpy_T":
            order.reverse()
        case "mT":
            order[-2:] = order[:-3:-1]
    return g("Transpose", g.value(x), perm=order) if rank > 1 else g.value(x)


@operator("squeeze squeeze.dim squeeze.dims", _AXES)
def _squeeze(g: Builder, op: Step) -> str:
    """PyTorch drops only axes of length one, which the shapes tell."""
    x = op.arguments["self"]
    wanted: Any = op.arguments.get("dim", range(len(x.shape)))
    axes = [wanted] if isinstance(wanted, int) else list(wanted)
    gone = sorted(d % len(x.shape) for d in axes if x.shape[d] == 1)
    return g("Squeeze", g.value(x), g.indices(*gone)) if gone else g.value(x)


@operator("unsqueeze", _AXES)
def _unsqueeze(g: Builder, op: Step) -> str:
    at = op.arguments["dim"] % len(op.outputs[0].shape)
    return g("Unsqueeze", g.value(op.arguments["self"]), g.indices(at))


@operator("expand expand_as broadcast_to", "to more axes of the same elements")
def _expand(g: Builder, op: Step) -> str:
    x, y = op.arguments["self"], op.outputs[0]
    if x.shape == y.shape:
        return g.value(x)
    like = op.arguments.get("other", y)
    return g("Expand", g.value(x), g.shape(op, y.shape, like))


@operator("slice.Tensor narrow", "a part")
def _slice(g: Builder, op: Step) -> str:
    a, x = op.arguments, op.arguments["self"]
    at = axis(op, x)
    size = x.shape[at]
    start = index(op, a["start"] or 0, size)
    if "length" in a:
        step, end = 1, index(op, _sum(a["start"], a["length"]), size)
    else:
        step, end = a["step"], MANY if a["end"] is None else index(op, a["end"], size)
    if start == 0 and step == 1 and op.outputs[0].shape == x.shape:
        return g.value(x)
    return g("Slice", g.value(x), *(g.indices(n) for n in (start, min(end, MANY), at, step)))


def _sum(a: Extent, b: Extent) -> Extent:
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    n = max(len(e.seen) for e in (a, b) if isinstance(e, Open))
    one, two = (e.seen if isinstance(e, Open) else (e,) * n for e in (a, b))
    return Open(tuple(i + j for i, j in zip(one, two, strict=True)))


@operator("select.int", "one of an axis")
def _select(g: Builder, op: Step) -> str:
    x, at = op.arguments["self"], axis(op, op.arguments["self"])
    place = index(op, op.arguments["index"], x.shape[at])
    parts = g.parts.get(g.value(x)) if at == 0 else None
    if parts is not None:
        return g("Squeeze", parts[place], g.indices(0))
    return g("Gather", g.value(x), g.constant(place, np.int64), axis=at)


@operator("chunk split.Tensor split.sizes split_with_sizes tensor_split.sections unsafe_chunk "
          "unsafe_split.Tensor unsafe_split_with_sizes", "parts of an axis")  # fmt: skip
def _split(g: Builder, op: Step) -> list[str]:
    x = op.arguments["self"]
    at = axis(op, x)
    sizes = [part.shape[at] for part in op.outputs]
    if any(isinstance(n, Open) for n in sizes):
        why = "the parts' lengths depend on the number of steps or the batch"
        raise op.refuse(f"dim {at}", why, "split along the features")
    return g.several("Split", len(sizes), g.value(x), g.indices(*sizes), axis=at)  # type: ignore[arg-type]


@operator("unbind.int", "parts of an axis")
def _unbind(g: Builder, op: Step) -> list[str]:
    x = op.arguments["self"]
    at = axis(op, x)
    value = g.value(x)
    return [g("Gather", value, g.constant(i, np.int64), axis=at) for i in range(len(op.outputs))]


@operator("cat concat concatenate", "side by side")
def _cat(g: Builder, op: Step) -> str:
    """An empty tensor of one axis is left out, as PyTorch does."""
    parts: list[Tensor] = [t for t in op.arguments["tensors"] if t.shape != (0,)]
    return _joined(g, op, [g.value(t) for t in parts])


def _joined(g: Builder, op: Step, parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else g("Concat", *parts, axis=axis(op, op.outputs[0]))


@operator("stack", "side by side")
def _stack(g: Builder, op: Step) -> str:
    at = axis(op, op.outputs[0])
    tensors: list[Tensor] = op.arguments["tensors"]
    return _joined(g, op, [g("Unsqueeze", g.value(t), g.indices(at)) for t in tensors])


@operator("flip", "the other order")
def _flip(g: Builder, op: Step) -> str:
    value = g.value(op.arguments["self"])
    for d in op.arguments["dims"]:
        at = d % len(op.outputs[0].shape)
        value = g("Slice", value, *(g.indices(n) for n in (-1, -MANY, at, -1)))
    return value


@operator("pad constant_pad_nd reflection_pad1d replication_pad1d",
          "with a number, reflected, replicated")  # fmt: skip
def _pad(g: Builder, op: Step) -> str:
    a, x = op.arguments, op.arguments["self"]
    widths = a["padding"] if "padding" in a else a["pad"]
    if any(isinstance(n, Open) for n in widths):
        raise op.refuse("pad", "depends on the number of steps", "pad by fixed numbers")
    before, after = ([0] * len(x.shape) for _ in range(2))
    for k in range(len(widths) // 2):
        before[-1 - k], after[-1 - k] = widths[2 * k], widths[2 * k + 1]
    name = op.target.split(".")[1]
    mode = a.get("mode", {"reflection_pad1d": "reflect", "replication_pad1d": "replicate"}.get(
        name, "constant"))  # fmt: skip
    if not any(widths):
        return g.value(x)
    known = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    fill = g.constant(a.get("value") or 0.0, np.float32)
    return g("Pad", g.value(x), g.indices(*before, *after), fill, mode=known[mode])

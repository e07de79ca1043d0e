"""The Keras layers that convert, each as the nodes that it becomes; `LAYERS` has them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

from edge_rnn.errors import ModelError
from edge_rnn.graph import F32
from edge_rnn_converters.keras.graph import Layer
from edge_rnn_converters.keras.network import Network, Value
from edge_rnn_converters.refused import KERAS_REFUSED, KERAS_REFUSED_VALUES, UNKNOWN

_INERT = frozenset(
    (
        "name", "trainable", "dtype", "batch_shape", "batch_input_shape", "input_shape",
        "input_dim", "input_length", "seed", "implementation", "caching_device", "autocast",
        "unit_forget_bias", "zero_output_for_mask", "time_major", "renorm_clipping",
        "renorm_momentum", "fused", "virtual_batch_size", "synchronized", "sparse", "ragged",
        "optional", "batch_size",
    )
)  # fmt: skip
"""Attributes that change nothing at inference, or whose refused values are refused by name."""

Builder: TypeAlias = Callable[[Layer, Network, Value], Value | tuple[Value, ...]]
Merger: TypeAlias = Callable[[Layer, Network, Sequence[Value]], Value]
_B = TypeVar("_B", bound=Builder)
_M = TypeVar("_M", bound=Merger)


@dataclass(frozen=True, slots=True)
class Known:
    """A layer class that converts: how, which attributes it reads, what the manual says of it.

    `merge` takes several values, `build` one. `each`: every number by itself, so that a flattened
    window may stay so. `front`: it takes rows of zeros in front of its input in.
    """

    build: Builder | None
    merge: Merger | None
    reads: frozenset[str]
    doc: str
    each: bool = False
    front: bool = False


LAYERS: dict[str, Known] = {}


def layer(
    kinds: str, reads: str, doc: str, *, each: bool = False, front: bool = False
) -> Callable[[_B], _B]:
    """Registers how the layers `kinds` become nodes."""

    def register(build: _B) -> _B:
        known = Known(build, None, frozenset(reads.split()), doc, each, front)
        LAYERS.update(dict.fromkeys(kinds.split(), known))
        return build

    return register


def merger(kinds: str, reads: str, doc: str) -> Callable[[_M], _M]:
    """Registers how layers that read several values become nodes."""

    def register(merge: _M) -> _M:
        known = Known(None, merge, frozenset(reads.split()), doc)
        LAYERS.update(dict.fromkeys(kinds.split(), known))
        return merge

    return register


def apply(layer: Layer, net: Network, values: Sequence[Value]) -> tuple[Value, ...]:
    """The results of a layer that reads these values.

    Raises UnsupportedError naming what of the layer can't be run faithfully, ModelError for
    weights that don't fit it.
    """
    check(layer)
    if layer.inside:
        return _each_step(layer, net, values)
    known = LAYERS[layer.kind]
    results: Value | tuple[Value, ...]
    if known.merge:
        results = known.merge(layer, net, [_plain(layer, net, known, x) for x in values])
    elif known.build and len(values) == 1:
        results = known.build(layer, net, _plain(layer, net, known, values[0]))
    else:
        why = "only a layer that merges reads more than one, and a cell starts from zeros"
        raise layer.refuse(f"{len(values)} inputs", why, "call it with its input alone")
    return results if isinstance(results, tuple) else (results,)


def _each_step(layer: Layer, net: Network, values: Sequence[Value]) -> tuple[Value, ...]:
    """As TimeDistributed does: to the layer there is no time, each row is all that it sees."""
    (x,) = values
    if x.ended or x.flat:
        raise layer.refuse("layer", "there are no steps to distribute it over", "use it alone")
    x = net.settled(layer, x)
    rows = apply(replace(layer, inside=False), net, [replace(x, steps=None, ended=True)])
    return tuple(replace(row, steps=x.steps, ended=False) for row in rows)


def _plain(layer: Layer, net: Network, known: Known, x: Value) -> Value:
    """The value as the layer can take it."""
    if x.flat and not known.each:
        why = f"it reads {x.flat} steps side by side, which only a Dense layer can here"
        raise layer.refuse("input", why, "put a Dense layer behind Flatten")
    if x.shape == () and layer.kind not in ("Embedding", "Reshape"):
        why = "an input of shape (batch, steps) is for an Embedding"
        raise layer.refuse("input", why, "give the model an Input of (steps, features)")
    return x if known.front else net.settled(layer, x)


def check(layer: Layer) -> None:
    """Refuse what is known not to convert, and whatever is set that we have never heard of.

    Raises UnsupportedError naming the layer and attribute.
    """
    if layer.kind not in LAYERS:
        raise layer.refuse("class", *KERAS_REFUSED.get(layer.kind, UNKNOWN))
    for (attribute, refused), why in KERAS_REFUSED_VALUES.items():
        if layer.config.get(attribute) == refused:
            raise layer.refuse(f"{attribute}={refused}", *why)
    _check_dtype(layer)
    for attribute, value in layer.config.items():
        known = attribute in LAYERS[layer.kind].reads or attribute in _INERT
        training_only = attribute.endswith(("_initializer", "_regularizer", "_constraint"))
        if not known and not training_only and value not in (None, False, 0, [], {}):
            raise layer.refuse(f"{attribute}={value!r}", *UNKNOWN)


def _check_dtype(layer: Layer) -> None:
    dtype = layer.config.get("dtype")
    name = dtype.get("config", {}).get("name") if isinstance(dtype, dict) else dtype
    if name not in (None, "float32"):
        why = "its results would differ from float32's"
        raise layer.refuse(f"dtype {name}", why, "save the model with the float32 policy")


def shaped(layer: Layer, *shapes: tuple[int, ...]) -> list[F32]:
    """The layer's weights, if they have these shapes. Raises ModelError."""
    found = [w.shape for w in layer.weights]
    if found != list(shapes):
        raise ModelError(f"{layer}: its weights have shapes {found}, expected {list(shapes)}")
    return list(layer.weights)


def check_axis(layer: Layer, x: Value) -> None:
    """Refuse another axis than the features'."""
    axis = layer.config.get("axis", -1)
    axes = axis if isinstance(axis, list) else [axis]
    if axes not in ([-1], [len(x.shape) + (not x.ended)]):
        raise layer.refuse(f"axis={axis}", "only the features' axis, -1, converts", "use axis=-1")


def check_vector(layer: Layer, x: Value) -> None:
    """Refuse rows of several positions."""
    if len(x.shape) != 1:
        why = f"a step of shape {x.shape} is not one vector of features"
        raise layer.refuse("input", why, "put TimeDistributed(Flatten()) before it")

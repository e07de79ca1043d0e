"""The Keras layers that read several values and merge them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edge_rnn.graph import Activation, Add, Concat, Multiply, Node
from edge_rnn_converters.keras.graph import Layer
from edge_rnn_converters.keras.layers import check_axis, check_vector, merger
from edge_rnn_converters.keras.network import Network, Value
from edge_rnn_converters.keras.pointwise import scaled


@merger("Add", "", "")
def _add(layer: Layer, net: Network, values: Sequence[Value]) -> Value:
    return _merged(layer, net, values, Add)


@merger("Multiply", "", "")
def _multiply(layer: Layer, net: Network, values: Sequence[Value]) -> Value:
    return _merged(layer, net, values, Multiply)


@merger("Average", "", "")
def _average(layer: Layer, net: Network, values: Sequence[Value]) -> Value:
    total = _merged(layer, net, values, Add)
    return scaled(net, layer.name, total, 0, 1 / len(values), 0)


@merger("Subtract", "", "")
def _subtract(layer: Layer, net: Network, values: Sequence[Value]) -> Value:
    first, second = values
    return _merged(layer, net, [first, scaled(net, layer.name, second, 0, -1, 0)], Add)


@merger("Maximum", "", "as a + relu(b - a)")
def _maximum(layer: Layer, net: Network, values: Sequence[Value]) -> Value:
    most = values[0]
    for other in values[1:]:
        most = _merged(layer, net, [most, _excess(layer, net, other, most)], Add)
    return most


@merger("Minimum", "", "as a - relu(a - b)")
def _minimum(layer: Layer, net: Network, values: Sequence[Value]) -> Value:
    least = values[0]
    for other in values[1:]:
        least = _subtract(layer, net, [least, _excess(layer, net, least, other)])
    return least


def _excess(layer: Layer, net: Network, a: Value, b: Value) -> Value:
    """relu(a - b)."""
    difference = _subtract(layer, net, [a, b])
    return replace(difference, name=net.put(Activation, layer.name, difference.name, "relu"))


@merger("Concatenate", "axis", "of the features")
def _concatenate(layer: Layer, net: Network, values: Sequence[Value]) -> Value:
    for x in values:
        check_axis(layer, x)
        check_vector(layer, x)
    if any(x.ended != values[0].ended for x in values):
        raise layer.refuse("inputs", "some are of the last step only", "concatenate equal steps")
    y = _node(layer, net, values, Concat)
    return y.features(y.name, sum(x.width for x in values))


def _merged(layer: Layer, net: Network, values: Sequence[Value], kind: type[Node]) -> Value:
    if any((x.shape, x.ended) != (values[0].shape, values[0].ended) for x in values):
        shapes = ", ".join(f"{x.shape}{' at the end' * x.ended}" for x in values)
        raise layer.refuse("inputs", f"differ in shape: {shapes}", "merge equal shapes")
    return _node(layer, net, values, kind)


def _node(layer: Layer, net: Network, values: Sequence[Value], kind: type[Node]) -> Value:
    """The values in one node, if they are there at the same steps."""
    first, *others = net.aligned(layer, values)
    if not others:
        return first
    name = net.put(kind, layer.name, first.name, tuple(x.name for x in others))
    return replace(first, name=name, masked=any(x.masked for x in values))

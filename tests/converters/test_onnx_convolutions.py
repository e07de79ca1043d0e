"""Convolution and pooling in ONNX: over steps, over a window, inside a message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.converters.onnx_models import Graph, H, I, random
from tests.converters.test_onnx_layers import Make, agrees, f32, kinds


def conv(
    pads: tuple[int, int],
    kernel: int = 3,
    wide: tuple[int, int] = (I, 4),
    in_front: tuple[int, int] | None = None,
    steps: Any = "T",
    then: Make = lambda g, y: y,
    **attrs: Any,
) -> onnx.ModelProto:
    """A convolution over steps, its padding its own or `in_front`, then a GRU."""
    g, x, (C, N) = Graph(), "x", wide
    if "auto_pad" not in attrs:
        attrs["pads"] = list(pads)
    if in_front:
        x = g("Pad", x, g.const([0, 0, in_front[0], 0, 0, in_front[1]]), g.const(f32(0)))
    w = g.const(random(N, C // attrs.get("group", 1), kernel))
    y = then(g, g("Conv", x, w, g.const(random(N)), **attrs))
    y = g.cell("GRU", g("Transpose", y, perm=[2, 0, 1]), width=N)[0]
    return g.model({"x": [1, C, steps]}, [y])


CONVOLUTIONS: dict[str, tuple[onnx.ModelProto, list[str]]] = {
    "causal": (conv((2, 0)), ["conv1d"]),
    "causal, dilated": (conv((6, 0), dilations=[3]), ["conv1d"]),
    "causal, with a stride": (conv((2, 0), strides=[2]), ["conv1d"]),
    "causal by a Pad": (conv((0, 0), in_front=(2, 0)), ["conv1d"]),
    "causal by cutting off": (
        conv((2, 2), then=lambda g, y: g("Slice", y, g.const([0]), g.const([-2]), g.const([2]))),
        ["conv1d"],
    ),
    "valid": (conv((0, 0)), ["conv1d"]),
    "valid, with a stride": (conv((0, 0), strides=[2]), ["conv1d"]),
    "same": (conv((1, 1), steps=20), ["pad", "conv1d"]),
    "same by name": (conv((0, 0), steps=20, auto_pad="SAME_UPPER"), ["pad", "conv1d"]),
    "groups": (conv((2, 0), wide=(4, 6), group=2), ["conv1d"]),
    "depthwise": (conv((2, 0), wide=(4, 4), group=4), ["conv1d"]),
    "pointwise": (conv((0, 0), kernel=1), ["dense"]),
    "max pooling": (
        conv((2, 0), then=lambda g, y: g("MaxPool", y, kernel_shape=[2], strides=[2])),
        ["conv1d", "pool"],
    ),
    "same max pooling": (
        conv((2, 0), steps=20, then=lambda g, y: g("MaxPool", y, kernel_shape=[3], strides=[1],
                                                   pads=[1, 1])),
        ["conv1d", "pad", "pool"],
    ),
    "causal mean": (
        conv((2, 0), then=lambda g, y: g("AveragePool", y, kernel_shape=[2], strides=[1],
                                         pads=[1, 0])),
        ["conv1d", "pool"],
    ),
    "mean with zeros": (
        conv((2, 0), steps=20, then=lambda g, y: g("AveragePool", y, kernel_shape=[2],
             strides=[1], pads=[1, 0], count_include_pad=1)),
        ["conv1d", "pad", "pool"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("model", "nodes"), CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolutions_over_steps(model: onnx.ModelProto, nodes: list[str], tmp_path: Path) -> None:
    assert kinds(agrees(model, tmp_path)) == [*nodes, "gru"]


def test_residual_blocks_of_causal_convolutions(tmp_path: Path) -> None:
    g, x = Graph(), "x"
    for n in (1, 2, 4):
        padded = g("Pad", x, g.const([0, 0, 2 * n, 0, 0, 0]))
        y = g("Relu", g("Conv", padded, g.const(random(I, I, 3, seed=n)), dilations=[n]))
        x = g("Add", x, y)
    read = agrees(g.model({"x": ["B", I, "T"]}, [x]), tmp_path)
    assert kinds(read) == ["conv1d", "add"] * 3


def test_a_convolution_written_with_two_axes(tmp_path: Path) -> None:
    """As tf2onnx writes Keras' Conv1D."""
    g = Graph()
    x = g("Unsqueeze", g("Transpose", "x", perm=[0, 2, 1]), g.const([2]))
    y = g("Squeeze", g("Conv", x, g.const(random(4, I, 1, 3)), pads=[0, 2, 0, 0]), g.const([2]))
    y = g.cell("GRU", g("Transpose", y, perm=[2, 0, 1]), width=4)[0]
    assert kinds(agrees(g.model({"x": [1, "T", I]}, [y]), tmp_path)) == ["conv1d", "gru"]


@pytest.mark.parametrize("flat", ["Flatten", "Reshape"])
def test_a_network_over_a_whole_window(flat: str, tmp_path: Path) -> None:
    g = Graph()
    y = g("Relu", g("Conv", "x", g.const(random(4, I, 3))))
    y = g("MaxPool", y, kernel_shape=[2], strides=[2])
    y = g("Flatten", y) if flat == "Flatten" else g("Reshape", y, g.const([1, -1]))
    y = g("Softmax", g("Gemm", y, g.const(random(36, 5)), g.const(random(5))))
    read = agrees(g.model({"x": [1, I, 20]}, [y]), tmp_path)
    assert kinds(read) == ["conv1d", "pool", "conv1d", "softmax"]
    assert read.regime.window == 20 and read.regime.ends


@pytest.mark.parametrize("kind", ["GlobalAveragePool", "GlobalMaxPool"])
def test_pooling_over_a_whole_window(kind: str, tmp_path: Path) -> None:
    g = Graph()
    y = g("Flatten", g(kind, g("Relu", g("Conv", "x", g.const(random(4, I, 3))))))
    read = agrees(g.model({"x": [1, I, 20]}, [g("Gemm", y, g.const(random(4, 5)))]), tmp_path)
    assert kinds(read) == ["conv1d", "pool", "dense"]


@pytest.mark.parametrize("kind", ["ReduceMean", "ReduceSum", "ReduceMax"])
def test_a_cell_s_mean_over_a_window(kind: str, tmp_path: Path) -> None:
    g = Graph(20)
    rows = g("Squeeze", g.cell("GRU", "x")[0], g.const([1]))
    y = g(kind, rows, g.const([0]), keepdims=0)
    read = agrees(g.model({"x": [20, 1, I]}, [g("MatMul", y, g.const(random(H, 2)))]), tmp_path)
    assert kinds(read)[:2] == ["gru", "pool"]


def test_samples_inside_a_message(tmp_path: Path) -> None:
    """A convolution and pooling along 32 samples of each message, then a cell over messages."""
    g = Graph()
    y = g("Reshape", "x", g.const([0, 1, -1]))
    y = g("Conv", y, g.const(random(4, 1, 5)), g.const(random(4)), strides=[3], pads=[1, 2])
    y = g("MaxPool", g("Relu", y), kernel_shape=[3], strides=[2], pads=[1, 1])
    y = g("AveragePool", y, kernel_shape=[2], strides=[1], pads=[1, 0], count_include_pad=1)
    y = g.cell("GRU", g("Reshape", g("Flatten", y), g.const([-1, 1, 24])), width=24)[0]
    read = agrees(g.model({"x": ["T", 32]}, [y]), tmp_path)
    assert [k for k in kinds(read) if k != "take"] == ["frame_conv", "frame_pool", "frame_pool",
                                                       "gru"]  # fmt: skip


def test_groups_and_means_inside_a_message(tmp_path: Path) -> None:
    g = Graph()
    y = g("Reshape", "x", g.const([-1, 4, 8]))
    y = g("Conv", y, g.const(random(6, 2, 3)), g.const(random(6)), group=2, dilations=[2],
          pads=[2, 2])  # fmt: skip
    y = g("Unsqueeze", g("ReduceMean", y, axes=[2], keepdims=0), g.const([1]))
    agrees(g.model({"x": ["T", 32]}, [g.cell("GRU", y, width=6)[0]]), tmp_path)


def test_one_message_after_the_other_with_the_state_beside_it(tmp_path: Path) -> None:
    """A fixed length of one message, and no axis of steps at all."""
    g = Graph()
    y = g("Conv", g("Unsqueeze", "x", g.const([1])), g.const(random(4, 1, 8)), strides=[8])
    y = g("Unsqueeze", g("ReduceMean", y, axes=[2], keepdims=0), g.const([0]))
    y, h = g.cell("GRU", y, g.bias("GRU"), "", "h", width=4)
    read = agrees(g.model({"x": [1, 64], "h": [1, 1, H]}, [y, h]), tmp_path)
    assert read.model.input_width == 64 and read.regime.window is None

"""One step of a recurrent layer: edge-rnn against ONNX Runtime.

A peer runs in the same process, on one thread, with the same batch and inputs, its state fed back
from step to step the way its own users must. Outputs of every step of a warm-up sequence must
agree before anything is timed. Rounds are interleaved; the ratio is the median of the rounds'
ratios.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import click
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from edge_rnn import Session
from edge_rnn.graph import Gru, Input, Lstm, Matrix, Model
from edge_rnn_converters.quantize import quantize

I = 6
Step = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Row:
    """Medians in microseconds a call; `ratio` is the peer's time over ours."""

    cell: str
    hidden: int
    batch: int
    weights: str
    ours_us: float
    peer_us: float
    ratio: float


def random_cell(cell: str, H: int) -> Lstm | Gru:
    """A cell with random weights, I features wide."""
    rng = np.random.default_rng(0)

    def w(rows: int, columns: int) -> Matrix:
        return Matrix(rng.normal(0, columns**-0.5, (rows, columns)).astype(np.float32))

    def b(n: int) -> NDArray[np.float32]:
        return rng.normal(0, 0.1, n).astype(np.float32)

    if cell == "lstm":
        return Lstm("cell", "x", w(4 * H, I), w(4 * H, H), b(4 * H))
    return Gru("cell", "x", w(3 * H, I), w(3 * H, H), b(3 * H), b(H))


def our_step(model: Model, batch: int) -> Step:
    """Through `step_slots`, as the daemon does."""
    session = Session(model, capacity=batch)
    slots = session.slots([str(i) for i in range(batch)])
    y = np.empty((batch, model.output_width), np.float32)

    def step(x: NDArray[np.float32]) -> NDArray[np.float32]:
        session.step_slots(slots, x, y)
        return y

    return step


def onnx_step(node: Lstm | Gru, batch: int) -> Step:
    """An ONNX graph with its state as inputs and outputs, fed back by the caller."""
    H, lstm = node.u.data.shape[1], isinstance(node, Lstm)
    states = ["h", "c"] if lstm else ["h"]
    order = [0, 3, 1, 2] if lstm else [0, 1, 2]  # ONNX: i o f c, and z r h
    w, u = (
        m.data.reshape(len(order), H, -1)[order].reshape(1, -1, m.data.shape[1])
        for m in (node.w, node.u)
    )
    recurrent = np.zeros(len(order) * H, np.float32)
    if not lstm:
        recurrent[2 * H :] = node.rb
    bias = np.concatenate([node.b.reshape(len(order), H)[order].ravel(), recurrent])[None]
    op = helper.make_node(
        "LSTM" if lstm else "GRU",
        ["x", "W", "R", "B", "", *states],
        ["", *(f"{s}_out" for s in states)],
        hidden_size=H,
        **({} if lstm else {"linear_before_reset": 1}),
    )
    infos = [helper.make_tensor_value_info(s, TensorProto.FLOAT, [1, batch, H]) for s in states]
    outs = [
        helper.make_tensor_value_info(f"{s}_out", TensorProto.FLOAT, [1, batch, H]) for s in states
    ]
    x_info = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, batch, I])
    weights = [numpy_helper.from_array(a, n) for a, n in ((w, "W"), (u, "R"), (bias, "B"))]
    graph = helper.make_graph([op], "step", [x_info, *infos], outs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        onnx.ModelProto.SerializeToString(model), options, providers=["CPUExecutionProvider"]
    )
    feeds = {s: np.zeros((1, batch, H), np.float32) for s in states}
    names = [f"{s}_out" for s in states]

    def step(x: NDArray[np.float32]) -> NDArray[np.float32]:
        new = session.run(names, {"x": x[None], **feeds})
        feeds.update(zip(states, new, strict=True))
        return new[0][0]

    return step


def compare(cell: str, H: int, batch: int, weights: str, rounds: int) -> Row:
    """Check that both compute the same, then time them in turn."""
    node = random_cell(cell, H)
    model = Model((Input("x", I),), (node,), ("cell",))
    quantized = quantize(model, weights)
    x = np.random.default_rng(1).standard_normal((64, batch, I), np.float32)
    ours, peer = our_step(quantized, batch), onnx_step(node, batch)
    tolerance = 1e-5 if weights == "float32" else 0.1
    for rows in x:
        np.testing.assert_allclose(ours(rows), peer(rows), atol=tolerance)
    pairs = np.array([[time_of(f, x) for f in (ours, peer)] for _ in range(rounds)])
    a, b = np.median(pairs, axis=0) * 1e6
    ratio = float(np.median(pairs[:, 1] / pairs[:, 0]))
    return Row(cell, H, batch, weights, float(a), float(b), ratio)


def time_of(step: Step, x: NDArray[np.float32]) -> float:
    """Median seconds a call over the 64 inputs."""
    spent = []
    for rows in x:
        start = time.perf_counter()
        step(rows)
        spent.append(time.perf_counter() - start)
    return float(np.median(spent))


@click.command()
@click.option("--rounds", default=25, show_default=True)
@click.option("--json", "as_json", is_flag=True)
@click.option("--markdown", is_flag=True)
def main(rounds: int, as_json: bool, markdown: bool) -> None:
    """Time one step of LSTM and GRU layers against ONNX Runtime."""
    rows = [
        compare(cell, H, batch, weights, rounds)
        for cell in ("lstm", "gru")
        for H in (32, 128)
        for batch in (1, 64)
        for weights in ("float32", "int8")
    ]
    if as_json:
        click.echo(json.dumps([asdict(r) for r in rows]))
        return
    cells = [
        (
            *(r.cell.upper(), str(r.hidden), str(r.batch), r.weights),
            *(f"{r.ours_us:.1f}", f"{r.peer_us:.1f}", f"{r.ratio:.2f}"),
        )
        for r in rows
    ]
    titles = ("cell", "H", "batch", "weights", "edge-rnn µs", "ONNX Runtime f32 µs", "times faster")
    if markdown:
        lines = [titles, ("---",) * len(titles), *cells]
        click.echo("\n".join(f"| {' | '.join(line)} |" for line in lines))
        return
    table = Table(*titles)
    for line in cells:
        table.add_row(*line)
    Console().print(table)


if __name__ == "__main__":
    main()

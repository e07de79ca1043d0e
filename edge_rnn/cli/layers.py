"""How near each layer of a model comes to what the machine can do at most.

One stream at a time, a step reads every weight once, so it can't be faster than reading them; with
many streams due at once it can't be faster than their multiply-adds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edge_rnn.cli.measure import ROUNDS, Step, inputs, medians, our_step
from edge_rnn.graph import F32, Input, Model, Node, attributes, multiply_adds, value_widths
from edge_rnn.kernels import limits
from edge_rnn.kernels.entries import dot_peak, fma_peak
from edge_rnn.kernels.entries import stream as read_all
from edge_rnn.program import compile_model
from edge_rnn.session import Session

_BYTES, _WORK = 1 << 23, 1 << 23
"""What a measured call reads and multiplies at least: much more than a call costs."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer with matrices, alone, beside the limits that were measured in turn with it.

    weight_bytes: what the runtime keeps of weights, scales and biases, all read by a step.
    step_us, stream_us: microseconds of a step of one stream, within a call of many, and of reading
        as many bytes; of_stream is the median of stream_us / step_us.
    multiply_adds_per_second, peak: in one call of `batch` streams, and of as many as the core
        makes at most, in the arithmetic named `products`; of_peak is the median of their ratio.
    """

    name: str
    op: str
    products: str
    weight_bytes: int
    step_us: float
    stream_us: float
    of_stream: float
    batch: int
    multiply_adds_per_second: float
    peak: float
    of_peak: float


def measure(model: Model, batch: int, seconds: float, rounds: int = ROUNDS) -> list[Layer]:
    """Every layer with matrices as a model of its own, `seconds` for each of its four figures."""
    widths = value_widths(model)
    return [
        _layer(node, single(node, widths[node.input]), batch, seconds, rounds)
        for node in model.nodes
        if multiply_adds(node, widths)
    ]


def single(node: Node, width: int) -> Model:
    """The node as a model, its input `width` wide."""
    return Model((Input(node.input, width),), (node,), (node.name,))


def _layer(node: Node, model: Model, batch: int, seconds: float, rounds: int) -> Layer:
    integer = is_integer(node)
    step, x, steps = one_stream(model)
    reads, bytes_read = stream(weight_bytes(model))
    works, work = peak(integer)
    many = (our_step(model, batch), inputs(model, batch))
    none = np.empty((1, 0), np.float32)
    turns = [(step, x), (reads, none), many, (works, none)]
    # A strided layer multiplies at some of its steps only.
    share = 1 / model.schedule.period
    one, read, call, most = medians(turns, seconds, rounds).T
    read_us = read / bytes_read * weight_bytes(model) * share
    multiplied = multiply_adds(node, value_widths(model)) * share * batch
    rate, most_rate = multiplied / call, work / most
    return Layer(
        name=node.name,
        op=node.OP,
        products="integer" if integer else "float32",
        weight_bytes=weight_bytes(model),
        step_us=1e6 * float(np.median(one / steps)),
        stream_us=1e6 * float(np.median(read_us)),
        of_stream=float(np.median(read_us / (one / steps))),
        batch=batch,
        multiply_adds_per_second=float(np.median(rate)),
        peak=float(np.median(most_rate)),
        of_peak=float(np.median(rate / most_rate)),
    )


def is_integer(node: Node) -> bool:
    """Do its matrices meet integer activations?"""
    return attributes(node).get("activations", "float32") != "float32"


def weight_bytes(model: Model) -> int:
    """What the runtime keeps of the model's parameters."""
    p = compile_model(model)
    return p.int8s.nbytes + p.halves.nbytes + p.floats.nbytes


def one_stream(model: Model) -> tuple[Step, F32, int]:
    """(step, x (n, T, I), T): each call steps one stream T times, as `Session.run` does, so that
    what a call from Python costs does not count."""
    T = max(8, min(1024, _BYTES // weight_bytes(model)))
    session = Session(model, capacity=1)
    slots = np.repeat(session.slots(["one"]), T)
    y = np.empty((T, model.output_width), np.float32)

    def step(x: F32) -> F32:
        session.step_slots(slots, x, y)
        return y

    return step, inputs(model, T, steps=4), T


def stream(nbytes: int) -> tuple[Step, int]:
    """(step, bytes): each call reads a buffer of nbytes again and again, as many bytes in all."""
    words = limits.words(nbytes)
    repeats = max(1, _BYTES // words.nbytes)
    y = np.empty(limits.ROOM, np.float32)
    return _returning(y, lambda: read_all(words, repeats, y))


def peak(integer: bool) -> tuple[Step, int]:
    """(step, multiply-adds of a call), as many a second as the core can make."""
    y = np.empty(limits.ROOM, np.float32)
    if integer:
        w, x = limits.operands()
        return _returning(y, lambda: dot_peak(w, x, _WORK // w.size, y))
    v, u = limits.floats()
    return _returning(y, lambda: fma_peak(v, u, _WORK // v.size, y))


def _returning(y: F32, call: Callable[[], int]) -> tuple[Step, int]:
    def step(_: F32) -> F32:
        call()
        return y

    return step, call()

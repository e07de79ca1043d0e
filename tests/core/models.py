"""Small random models of every kind, for the tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edge_rnn.graph import (
    GROUP,
    Act,
    Activation,
    Add,
    Concat,
    Conv1d,
    CoupledLstm,
    Dense,
    Embedding,
    FrameConv,
    FramePool,
    Gru,
    Input,
    L2Norm,
    LayerNorm,
    LogSoftmax,
    Lru,
    Lstm,
    Matrix,
    MinGru,
    Model,
    Multiply,
    Node,
    NormGru,
    NormLstm,
    Pool,
    PRelu,
    RmsNorm,
    Rnn,
    Scale,
    Slice,
    Softmax,
    Take,
    of,
    tensors,
    tuned,
)

I, H = 5, 7


CLIPPED = tuned("clip", -0.7, 0.7)
FORMATS = (
    "float32", "float16", "int8", "int8 int16", "int8 int8", "int4 int16", "int4 int8",
)  # fmt: skip
"""Weights, and activations where they are not float32."""


class Random:
    """Weights of one seed and format."""

    def __init__(self, seed: int = 0, format: str = "float32") -> None:
        self.rng = np.random.default_rng(seed)
        self.weights, _, self.activations = format.partition(" ")
        self.activations = self.activations or "float32"

    def vector(self, n: int) -> np.ndarray:
        return self.rng.normal(0, 0.5, n).astype(np.float32)

    def matrix(self, rows: int, columns: int) -> Matrix:
        w = self.rng.normal(0, columns**-0.5, (rows, columns)).astype(np.float32)
        if self.weights.startswith("float"):
            return Matrix(w.astype(self.weights))
        if self.weights == "int4":
            groups = np.zeros((rows, -(-columns // GROUP), GROUP), np.float32)
            groups.reshape(rows, -1)[:, :columns] = w
            scale = (np.abs(groups).max(axis=2) / 7).astype(np.float32)
            steps = np.rint(w / np.repeat(scale, GROUP, axis=1)[:, :columns])
            return Matrix(steps.astype(np.int8), scale)
        scale = (np.abs(w).max(axis=1) / 127).astype(np.float32)
        return Matrix(np.rint(w / scale[:, None]).astype(np.int8), scale)


def rnn(r: Random, name: str = "cell", x: str = "x", i: int = I, act: Act = "tanh") -> Rnn:
    return Rnn(name, x, r.matrix(H, i), r.matrix(H, H), r.vector(H), act, r.activations)


def lstm(r: Random, name: str = "cell", x: str = "x", i: int = I, **acts: Act) -> Lstm:
    return Lstm(
        name,
        x,
        r.matrix(4 * H, i),
        r.matrix(4 * H, H),
        r.vector(4 * H),
        activations=r.activations,
        **acts,
    )


def gru(r: Random, name: str = "cell", x: str = "x", i: int = I, **choices: str) -> Gru:
    w, u = r.matrix(3 * H, i), r.matrix(3 * H, H)
    formats = {"activations": r.activations, **choices}
    return Gru(name, x, w, u, r.vector(3 * H), r.vector(H), **formats)  # type: ignore[arg-type]


def lstm_with(
    cls: type[Lstm], r: Random, r_width: int = H, h: int = H, i: int = I, **others: object
) -> Lstm:
    """An LSTM of any class, with a projection where r_width is not h."""
    rows = len(cls.GATES) * h
    if r_width != h:
        others.setdefault("projection", r.matrix(r_width, h))
    others.setdefault("activations", r.activations)
    return cls(
        "cell", "x", w=r.matrix(rows, i), u=r.matrix(rows, r_width), b=r.vector(rows), **others
    )  # type: ignore[arg-type]


def gain(r: Random, n: int) -> np.ndarray:
    """Gains as training leaves them, about 1."""
    return r.vector(n) + np.float32(1)


def norm_gru(r: Random, h: int = H, i: int = I, **choices: object) -> NormGru:
    w, u, b, rb = r.matrix(3 * h, i), r.matrix(3 * h, h), r.vector(3 * h), r.vector(h)
    choices.setdefault("activations", r.activations)
    return NormGru("cell", "x", w, u, b, rb, gain(r, 3 * h), gain(r, 3 * h), **choices)  # type: ignore[arg-type]


def min_gru(
    r: Random, h: int = H, i: int = I, act: Act = "min_gru", gate: Act = "sigmoid"
) -> MinGru:
    w, b = r.matrix(2 * h, i), r.vector(2 * h)
    return MinGru("cell", "x", w, b, gate, act, activations=r.activations)


def lru(r: Random, n: int = H, m: int = 4, i: int = I, **others: object) -> Lru:
    size, turn = r.rng.uniform(0.8, 0.99, n), r.rng.uniform(0, np.pi, n)
    place = [(size * wave(turn)).astype(np.float32) for wave in (np.cos, np.sin)]
    b, c = [r.matrix(n, i), r.matrix(n, i)], [r.matrix(m, n), r.matrix(m, n)]
    return Lru("cell", "x", *place, *b, *c, r.activations, **others)  # type: ignore[arg-type]


def conv(
    r: Random, name: str = "conv", x: str = "x", i: int = I, n: int = H, **choices: Any
) -> Conv1d:
    """A convolution of three taps, unless told otherwise."""
    kernel, groups = choices.setdefault("kernel", 3), choices.get("groups", 1)
    if groups == i == n:  # depthwise: no product that could be one of integers
        r = Random(4, "int8" if r.weights == "int4" else r.weights)
    w = r.matrix(n, kernel * i // groups)
    return Conv1d(name, x, w, r.vector(n), activations=r.activations, **choices)


def frame(r: Random, *nodes: Node, n: int = 12) -> tuple[Node, ...]:
    """Nodes that read "frame": n numbers, of the input and its mirror images, some of them 0."""
    places = np.arange(n) % (2 * I - 2)
    places = np.where(r.rng.random(n) < 0.2, -1, np.minimum(places, 2 * I - 2 - places))
    return Take("frame", "x", places.astype(np.float32)), *nodes


def frame_conv(r: Random, c: int = 2, n: int = H, x: str = "frame", **choices: Any) -> FrameConv:
    """A convolution of three positions of c channels, unless told otherwise."""
    kernel = choices.setdefault("kernel", 3)
    w = r.matrix(n, kernel * c)
    return FrameConv("conv", x, w, r.vector(n), activations=r.activations, **choices)


def number(value: float) -> np.ndarray:
    """An option of a cell that is one number."""
    return np.array([value], np.float32)


def branches(r: Random, last: Node) -> tuple[Node, ...]:
    """Two branches "a" and "b" that the last node joins."""
    return rnn(r, "a"), Dense("b", "x", r.matrix(H, I), r.vector(H), "linear", r.activations), last


def model(*nodes: Node, width: int = I) -> Model:
    return Model((Input("x", width),), nodes, (nodes[-1].name,))


NODES: dict[str, Callable[[Random], Node | tuple[Node, ...]]] = {
    "rnn": rnn,
    "rnn_relu": lambda r: rnn(r, act="relu"),
    "lstm": lstm,
    "lstm_hard": lambda r: lstm(r, gate="hard_sigmoid_keras2", cell="softsign", hidden="relu6"),
    "gru_after": gru,
    "gru_before": lambda r: gru(r, reset="before"),
    "gru_odd": lambda r: gru(r, gate="hard_sigmoid_relu6", candidate="linear"),
    "dense": lambda r: Dense("dense", "x", r.matrix(H, I), r.vector(H), "silu", r.activations),
    "scale": lambda r: Scale("scale", "x", r.vector(I), r.vector(I), r.vector(I)),
    "activation": lambda r: Activation("activation", "x", "sigmoid"),
    "softmax": lambda r: Softmax("softmax", "x"),
    "add": lambda r: branches(r, Add("add", "a", ("b", "a"))),
    "multiply": lambda r: branches(r, Multiply("multiply", "a", ("b", "b"))),
    "concat": lambda r: branches(r, Concat("concat", "a", ("x", "b"))),
    "slice": lambda r: Slice("slice", "x", 1, 4),
    "conv1d": lambda r: conv(r, dilation=2, act="relu"),
    "conv1d_valid": lambda r: conv(r, kernel=4, stride=3, padding="valid"),
    "conv1d_groups": lambda r: conv(r, n=2 * I, groups=I, stride=2),
    "conv1d_depthwise": lambda r: conv(r, n=I, groups=I, dilation=3, act="tanh"),
    "pool_max": lambda r: Pool("pool", "x", "max", 3, 2, "causal"),
    "pool_average": lambda r: Pool("pool", "x", "average", 4, 3),
    "pool_average_causal": lambda r: Pool("pool", "x", "average", 5, 1, "causal"),
    "rnn_linear": lambda r: rnn(r, act="linear"),
    "lstm_peephole": lambda r: lstm_with(Lstm, r, peephole=r.vector(3 * H)),
    "lstm_projection": lambda r: lstm_with(Lstm, r, 3),
    "lstm_wider": lambda r: lstm_with(Lstm, r, 37, peephole=r.vector(3 * H)),
    "lstm_coupled": lambda r: lstm_with(CoupledLstm, r),
    "lstm_coupled_all": lambda r: lstm_with(
        CoupledLstm, r, 3, peephole=r.vector(2 * H), gate="hard_sigmoid_keras2", cell="elu"
    ),
    "lstm_norm_products": lambda r: lstm_with(
        NormLstm, r, gain=gain(r, 4 * H), recurrent_gain=gain(r, 4 * H), cell_norm=gain(r, 2 * H)
    ),
    "lstm_norm_gates": lambda r: lstm_with(NormLstm, r, gain=gain(r, 4 * H)),
    "lstm_norm_looking": lambda r: lstm_with(
        NormLstm,
        r,
        peephole=r.vector(3 * H),
        gain=gain(r, 4 * H),
        recurrent_gain=gain(r, 4 * H),
        cell_norm=gain(r, 2 * H),
    ),
    "lstm_norm_all": lambda r: lstm_with(
        NormLstm,
        r,
        3,
        gain=gain(r, 4 * H),
        cell_norm=gain(r, 2 * H),
        carried="normalised",
        peephole=r.vector(3 * H),
        epsilon=1e-3,
    ),
    "gru_norm": norm_gru,
    "gru_norm_zrn": lambda r: norm_gru(r, over="zrn", epsilon=1e-3),
    "min_gru": min_gru,
    "min_gru_linear": lambda r: min_gru(r, act="linear"),
    "lru": lru,
    "lru_matrix": lambda r: lru(r, d=r.matrix(4, I)),
    "lru_diagonal": lambda r: lru(r, m=I, diagonal=r.vector(I)),
    "rnn_tuned": lambda r: rnn(r, act=of(tuned("scaled_tanh", 1.5, 0.5), CLIPPED)),
    "lstm_tuned": lambda r: lstm(
        r,
        gate=of("sigmoid", CLIPPED),
        cell=of(tuned("elu", 0.5), CLIPPED),
        hidden=tuned("leaky_relu", 0.1),
    ),
    "lstm_clipped": lambda r: lstm_with(
        Lstm,
        r,
        3,
        peephole=r.vector(3 * H),
        projection_bias=r.vector(3),
        cell_clip=number(0.3),
        projection_clip=number(0.5),
    ),
    "lstm_coupled_clipped": lambda r: lstm_with(
        CoupledLstm, r, cell_clip=number(0.3), gate=tuned("hard_sigmoid", 0.3, 0.4)
    ),
    "lstm_norm_clipped": lambda r: lstm_with(
        NormLstm, r, gain=gain(r, 4 * H), cell_clip=number(0.3), cell_norm=gain(r, 2 * H)
    ),
    "gru_after_tuned": lambda r: gru(r, gate=tuned("hard_sigmoid", 0.3, 0.4), candidate=CLIPPED),
    "gru_before_tuned": lambda r: gru(
        r, reset="before", gate=of("sigmoid", CLIPPED), candidate=of("tanh", CLIPPED)
    ),
    "gru_norm_tuned": lambda r: norm_gru(r, gate=of("sigmoid", CLIPPED)),
    "min_gru_tuned": lambda r: min_gru(r, act=tuned("affine", 0.5, 0.25)),
    "activation_tuned": lambda r: Activation(
        "y", "x", of(tuned("elu", 2), tuned("affine", 0.5, -0.25))
    ),
    "layer_norm": lambda r: LayerNorm("norm", "x", gain(r, I), r.vector(I)),
    "rms_norm": lambda r: RmsNorm("norm", "x", gain(r, I)),
    "l2_norm": lambda r: L2Norm("norm", "x"),
    "log_softmax": lambda r: LogSoftmax("softmax", "x"),
    "frame_conv": lambda r: frame(r, frame_conv(r, act="relu")),
    "frame_conv_bounded": lambda r: (
        Activation("bounded", "x", "tanh"),
        Take("frame", "bounded", np.float32([4, 3, -1, 2, 1, 0, 1, 2])),
        frame_conv(r, 1, kernel=4, stride=2, act="tanh"),
    ),
    "frame_pool_max": lambda r: frame(r, FramePool("pool", "frame", "max", 2, 3, 2)),
    "frame_pool_average": lambda r: frame(r, FramePool("pool", "frame", "average", 3, 2, 1)),
    "prelu": lambda r: PRelu("prelu", "x", r.vector(I)),
}


def single(kind: str, weights: str = "float32", seed: int = 0) -> Model:
    """A model of the one node, and of what it joins."""
    made = NODES[kind](Random(seed, weights))
    return model(*(made if isinstance(made, tuple) else (made,)))


def formats(kind: str) -> tuple[str, ...]:
    """The formats that the kind's matrices may have; one if it has none."""
    matrices = (t for n in single(kind).nodes for _, _, t in tensors(n) if isinstance(t, Matrix))
    return FORMATS if any(matrices) else FORMATS[:1]


def stack(weights: str = "float32", seed: int = 0) -> Model:
    """One of everything, a deep classifier."""
    r = Random(seed, weights)
    return model(
        Scale("norm", "x", r.vector(I), r.vector(I), r.vector(I)),
        lstm(r, "lstm", "norm"),
        gru(r, "before", "lstm", H, reset="before"),
        gru(r, "after", "before", H),
        rnn(r, "rnn", "after", H),
        Dense("dense", "rnn", r.matrix(4, H), r.vector(4), activations=r.activations),
        Softmax("softmax", "dense"),
    )


def strided(weights: str = "float32", seed: int = 0) -> Model:
    """Convolutions and pools that thin out the steps, with recurrent cells before and behind."""
    r = Random(seed, weights)
    return model(
        conv(r, "wide", padding="causal", dilation=2, act="relu"),
        conv(r, "local", "wide", H, H, groups=H, kernel=5),
        Add("residual", "wide", ("local",)),
        Pool("pool", "residual", "max", 2, 2, "valid"),
        gru(r, "between", "pool", H),
        conv(r, "thin", "between", H, 2 * H, groups=1, kernel=4, stride=3, padding="valid"),
        Slice("left", "thin", 0, H),
        Slice("right", "thin", H, 2 * H),
        Activation("gate", "right", "sigmoid"),
        Multiply("gated", "left", ("gate",)),
        gru(r, "behind", "gated", H, reset="before"),
        Concat("all", "behind", ("gated",)),
    )


def embedding(weights: str = "float32") -> Model:
    r = Random(3, weights)
    table = Random(3, "int8" if r.weights == "int4" else r.weights).matrix(11, I)
    return model(Embedding("emb", "x", table), gru(r, "cell", "emb"), width=1)


def inputs(steps: int, width: int = I, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1.5, (steps, width)).astype(np.float32)

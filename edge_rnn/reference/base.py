"""The reference's common parts: activations, integers, and the dispatch by kind of node."""

from __future__ import annotations

import math
from functools import singledispatch
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_rnn.activations import steps
from edge_rnn.graph import Node

F64: TypeAlias = NDArray[np.float64]


def activate(act: str, x: F64) -> F64:
    """The activation `act`, element-wise (see `activations`)."""
    for step in steps(act):
        x = _tuned(step.name, x, *step.numbers) if step.numbers else _plain(step.name, x)
    return x


def _tuned(name: str, x: F64, alpha: float, beta: float = 0.0) -> F64:
    match name:
        case "affine":
            return alpha * x + beta
        case "leaky_relu":
            return np.where(x < 0, alpha * x, x)
        case "thresholded_relu":
            return np.where(x <= alpha, 0, x)
        case "scaled_tanh":
            return alpha * np.tanh(beta * x)
        case "hard_sigmoid":
            return np.clip(alpha * x + beta, 0, 1)
        case "elu":
            return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))
        case "clip":
            return np.clip(x, alpha, beta)
    raise ValueError(name)


def _plain(act: str, x: F64) -> F64:
    match act:
        case "linear":
            return x
        case "relu":
            return np.maximum(x, 0)
        case "relu6":
            return np.clip(x, 0, 6)
        case "tanh":
            return np.tanh(x)
        case "sigmoid":
            return np.asarray(np.exp(-np.logaddexp(0, -x)))
        case "softsign":
            return np.asarray(x / (1 + np.abs(x)))
        case "silu":
            return x * _plain("sigmoid", x)
        case "hard_sigmoid_keras2":
            return np.clip(0.2 * x + 0.5, 0, 1)
        case "hard_sigmoid_relu6":
            return np.clip(x + 3, 0, 6) / 6
        case "elu":
            return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))
        case "selu":
            alpha, scale = 1.6732632423543772, 1.0507009873554805
            return scale * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))
        case "gelu":
            return np.asarray(x * np.vectorize(math.erfc, [float])(-x / np.sqrt(2)) / 2)
        case "gelu_tanh":
            return x * _plain("sigmoid", np.sqrt(8 / np.pi) * (x + 0.044715 * x**3))
        case "softplus":
            return np.logaddexp(0, x)
        case "mish":
            return x * np.tanh(np.logaddexp(0, x))
        case "hard_swish":
            return x * np.clip(x + 3, 0, 6) / 6
        case "hard_tanh":
            return np.clip(x, -1, 1)
        case "exponential":
            with np.errstate(over="ignore"):
                return np.exp(x)
        case "log_sigmoid":
            return -np.logaddexp(0, -x)
        case "min_gru":
            return np.where(x >= 0, x + 0.5, _plain("sigmoid", x))
        case "sqrt" | "log":
            with np.errstate(invalid="ignore", divide="ignore"):  # of x < 0: NaN
                return np.sqrt(x) if act == "sqrt" else np.log(x)
        case "square":
            return x * x
        case "abs":
            return np.abs(x)
    raise ValueError(act)


def rounded(x: F64, activations: str, limit: float = 0.0) -> F64:
    """x (n,) or each row of x (T, n) as the integers times their unit that `activations` makes of
    it; `limit` is the size that x can't exceed, 0 if unknown (see `graph.Activations`)."""
    if activations == "float32":
        return x
    size = limit or np.maximum(np.abs(x).max(axis=-1, keepdims=True), 1e-30)
    unit = size / {"int8": 127, "int16": 127 * 256}[activations]
    return np.asarray(np.rint(x / unit) * unit)


@singledispatch
def forward(node: Node, x: F64, *others: F64, limit: float = 0.0) -> F64:
    """One node over a whole sequence, x (T, I) -> (n, width), from the initial state.

    T counts the rows of what it reads, n those of what it makes; `limit` is the size that x can't
    exceed, 0 if unknown.
    """
    raise NotImplementedError(node.OP)


def norm(v: F64, epsilon: float) -> F64:
    """(v - mean) / sqrt(variance + epsilon) over the last axis."""
    variance = v.var(axis=-1, keepdims=True)
    return np.asarray((v - v.mean(axis=-1, keepdims=True)) / np.sqrt(variance + epsilon))

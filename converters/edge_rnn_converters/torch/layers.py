"""ATen operators that compute: products, convolutions, pooling, norms, activations, arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_rnn_converters.tensors.graph import Op
from edge_rnn_converters.torch.build import AtenOperators, Builder, axis
from edge_rnn_converters.torch.program import Step, Tensor

operator = AtenOperators()


def _operand(g: Builder, value: Any) -> str:
    """A tensor, or a number as a constant."""
    return g.value(value) if isinstance(value, Tensor) else g.constant(value, np.float32)


@operator("linear", "")
def _linear(g: Builder, op: Step) -> str:
    a = op.arguments
    weight = a["weight"]
    if weight.array is None:
        w = g("Transpose", g.value(weight), perm=[1, 0])
    else:
        w = g.constant(np.ascontiguousarray(weight.array.T))
    y = g("MatMul", g.value(a["input"]), w)
    return y if a["bias"] is None else g("Add", y, g.value(a["bias"]))


@operator("addmm", "")
def _addmm(g: Builder, op: Step) -> str:
    a = op.arguments
    inputs = (g.value(a[n]) for n in ("mat1", "mat2", "self"))
    return g("Gemm", *inputs, alpha=float(a["alpha"]), beta=float(a["beta"]))


@operator("matmul mm", "by a constant")
def _matmul(g: Builder, op: Step) -> str:
    a = op.arguments
    return g("MatMul", g.value(a["self"]), g.value(a.get("mat2") or a["other"]))


@operator("conv1d conv1d.padding conv2d conv2d.padding convolution _convolution "
          "_convolution.deprecated", "over the steps, or inside a message")  # fmt: skip
def _conv(g: Builder, op: Step) -> str:
    a = op.arguments
    x, weight = a["input"], a["weight"]
    if a.get("transposed"):
        raise op.refuse("transposed", "has no node here", "upsample outside of the model")
    kernel = [int(n) for n in weight.shape[2:]]
    dilation, stride = (_spread(a[n], len(kernel)) for n in ("dilation", "stride"))
    inputs = [g.value(x), g.value(weight), g.value(a["bias"])]
    batched = len(x.shape) == len(kernel) + 2
    if not batched:
        inputs[0] = g("Unsqueeze", inputs[0], g.indices(0))
    y = g("Conv", *inputs, kernel_shape=kernel, strides=stride, dilations=dilation,
          pads=_pads(a["padding"], kernel, dilation), group=a["groups"])  # fmt: skip
    return y if batched else g("Squeeze", y, g.indices(0))


def _spread(numbers: Sequence[int], n: int) -> list[int]:
    """One number stands for all axes, none for ones."""
    return list(numbers) * (n if len(numbers) == 1 else 1) or [1] * n


def _pads(padding: Any, kernel: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """Pads before and after each axis; "same" puts the odd one behind."""
    if isinstance(padding, str):
        total = [d * (k - 1) if padding == "same" else 0
                 for k, d in zip(kernel, dilation, strict=True)]  # fmt: skip
        return [n // 2 for n in total] + [n - n // 2 for n in total]
    return _spread(padding, len(kernel)) * 2


@operator("max_pool1d avg_pool1d", "without padding, or causal")
def _pool(g: Builder, op: Step) -> str:
    a, name = op.arguments, op.target.split(".")[1]
    kernel = list(a["kernel_size"])
    attributes: dict[str, Any] = {
        "kernel_shape": kernel, "strides": list(a["stride"]) or kernel,
        "pads": list(a["padding"]) * 2, "ceil_mode": int(a["ceil_mode"]),
    }  # fmt: skip
    if name == "max_pool1d":
        return g("MaxPool", g.value(a["self"]), dilations=list(a["dilation"]), **attributes)
    included = int(a["count_include_pad"])
    return g("AveragePool", g.value(a["self"]), count_include_pad=included, **attributes)


@operator("adaptive_avg_pool1d adaptive_max_pool1d", "to one place")
def _adaptive(g: Builder, op: Step) -> list[str]:
    a = op.arguments
    if list(a["output_size"]) != [1]:
        why = f"{a['output_size']} places of a length that may be any"
        raise op.refuse("output_size", why, "pool with a fixed kernel, or to one place")
    kind = "GlobalAveragePool" if "avg" in op.target else "GlobalMaxPool"
    return [g(kind, g.value(a["self"]))]


@operator("layer_norm", "over the features")
def _layer_norm(g: Builder, op: Step) -> str:
    a = op.arguments
    shape = tuple(a["normalized_shape"])
    scale = g.constant(np.ones(shape, np.float32)) if a["weight"] is None else g.value(a["weight"])
    at = len(a["input"].shape) - len(shape)
    return g("LayerNormalization", g.value(a["input"]), scale, g.value(a["bias"]), axis=at,
             epsilon=a["eps"])  # fmt: skip


@operator("rms_norm", "over the features")
def _rms_norm(g: Builder, op: Step) -> str:
    a = op.arguments
    shape = tuple(a["normalized_shape"])
    scale = g.constant(np.ones(shape, np.float32)) if a["weight"] is None else g.value(a["weight"])
    epsilon = float(np.finfo(np.float32).eps) if a["eps"] is None else a["eps"]
    at = len(a["input"].shape) - len(shape)
    return g("RMSNormalization", g.value(a["input"]), scale, axis=at, epsilon=epsilon)


@operator("batch_norm", "its moving averages")
def _batch_norm(g: Builder, op: Step) -> str:
    a = op.arguments
    if a["training"] or a["running_mean"] is None:
        why = "is by the batch's own mean and variance"
        raise op.refuse("training", why, "call eval(), and keep track_running_stats on")
    n = a["running_mean"].shape[0]
    gain = g.constant(np.ones(n, np.float32)) if a["weight"] is None else g.value(a["weight"])
    shift = g.constant(np.zeros(n, np.float32)) if a["bias"] is None else g.value(a["bias"])
    statistics = (g.value(a[name]) for name in ("running_mean", "running_var"))
    return g("BatchNormalization", g.value(a["input"]), gain, shift, *statistics, epsilon=a["eps"])


_PLAIN = {
    "relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "selu": "Selu", "mish": "Mish",
    "hardswish": "HardSwish", "exp": "Exp", "sqrt": "Sqrt", "abs": "Abs", "neg": "Neg",
    "reciprocal": "Reciprocal", "log": "Log", "silu": "Swish",
}  # fmt: skip


@operator(" ".join(f"{n} {n}_" for n in _PLAIN))
def _plain(g: Builder, op: Step) -> str:
    return g(_PLAIN[op.target.split(".")[1].removesuffix("_")], g.value(op.arguments["self"]))


@operator("hardsigmoid hardsigmoid_")
def _hardsigmoid(g: Builder, op: Step) -> str:
    return g("HardSigmoid", g.value(op.arguments["self"]), alpha=1 / 6, beta=0.5)


@operator("elu elu_", "`scale` and `input_scale` 1")
def _elu(g: Builder, op: Step) -> str:
    a = op.arguments
    if (a["scale"], a["input_scale"]) != (1, 1):
        raise op.refuse("scale", f"is {a['scale']}, {a['input_scale']}", "use ELU or SELU")
    return g("Elu", g.value(a["self"]), alpha=float(a["alpha"]))


@operator("gelu", "both approximations")
def _gelu(g: Builder, op: Step) -> str:
    return g("Gelu", g.value(op.arguments["self"]), approximate=op.arguments["approximate"])


@operator("softplus", "`beta` 1")
def _softplus(g: Builder, op: Step) -> str:
    """Above its threshold PyTorch takes x itself; from 15 on that is softplus in float32."""
    a = op.arguments
    if a["beta"] != 1 or a["threshold"] < 15:
        raise op.refuse(f"beta={a['beta']}, threshold={a['threshold']}", "expected 1 and 20",
                        "train with the defaults")  # fmt: skip
    return g("Softplus", g.value(a["self"]))


@operator("log_sigmoid")
def _log_sigmoid(g: Builder, op: Step) -> str:
    return g("Neg", g("Softplus", g("Neg", g.value(op.arguments["self"]))))


@operator("leaky_relu leaky_relu_")
def _leaky_relu(g: Builder, op: Step) -> str:
    a = op.arguments
    return g("LeakyRelu", g.value(a["self"]), alpha=float(a["negative_slope"]))


@operator("prelu", "one slope, or one a feature")
def _prelu(g: Builder, op: Step) -> str:
    """PyTorch's slopes are along axis 1; ONNX broadcasts from the last."""
    x, slope = op.arguments["self"], op.arguments["weight"]
    value = g.value(slope)
    if slope.array is not None and slope.array.size > 1:
        value = g.constant(slope.array.reshape(-1, *[1] * (len(x.shape) - 2)))
    return g("PRelu", g.value(x), value)


@operator("hardtanh hardtanh_ relu6 relu6_ clamp clamp_ clamp_min clamp_min_ clamp_max clip",
          "")  # fmt: skip
def _clamp(g: Builder, op: Step) -> str:
    a = op.arguments
    low, high = (a.get("min_val", a.get("min")), a.get("max_val", a.get("max")))
    if "relu6" in op.target:
        low, high = 0.0, 6.0
    ends = ("" if n is None else g.constant(n, np.float32) for n in (low, high))
    return g("Clip", g.value(a["self"]), *ends)


@operator("softmax.int _softmax", "over the features")
def _softmax(g: Builder, op: Step) -> str:
    return g("Softmax", g.value(op.arguments["self"]), axis=axis(op, op.arguments["self"]))


@operator("log_softmax.int _log_softmax", "over the features")
def _log_softmax(g: Builder, op: Step) -> str:
    return g("LogSoftmax", g.value(op.arguments["self"]), axis=axis(op, op.arguments["self"]))


@operator("embedding", "of the input itself")
def _embedding(g: Builder, op: Step) -> str:
    return g("Gather", g.value(op.arguments["weight"]), g.value(op.arguments["indices"]), axis=0)


_BINARY = {"add": "Add", "sub": "Sub", "rsub": "Sub", "mul": "Mul", "div": "Div",
           "maximum": "Max", "minimum": "Min"}  # fmt: skip


@operator(
    "add.Tensor add_.Tensor add.Scalar sub.Tensor sub_.Tensor sub.Scalar rsub.Tensor rsub.Scalar "
    "mul.Tensor mul_.Tensor mul.Scalar div.Tensor div_.Tensor div.Scalar maximum minimum",
    "of the stream and constants, or of two values of one step",
)
def _binary(g: Builder, op: Step) -> str:
    a, name = op.arguments, op.target.split(".")[1].removesuffix("_")
    left, right = g.value(a["self"]), _operand(g, a["other"])
    if name == "rsub":
        left, right = right, left
    if a.get("alpha", 1) != 1:
        right = g("Mul", right, g.constant(a["alpha"], np.float32))
    if a.get("rounding_mode"):
        raise op.refuse("rounding_mode", "rounds", "divide without it")
    if name == "div" and _is_softsign(g, left, right):
        return g("Softsign", left)
    return g(_BINARY[name], left, right)


def _is_softsign(g: Builder, x: str, below: str) -> bool:
    """x / (|x| + 1)"""
    match g.maker(below):
        case Op(kind="Add", inputs=(inner, one)) if g.constants.get(one) == 1:
            match g.maker(inner):
                case Op(kind="Abs", inputs=(of,)):
                    return of == x
    return False


@operator("pow.Tensor_Scalar square", "squares and roots")
def _pow(g: Builder, op: Step) -> str:
    x, exponent = g.value(op.arguments["self"]), op.arguments.get("exponent", 2)
    if exponent == 2:
        return g("Mul", x, x)
    return g("Sqrt", x) if exponent == 0.5 else g("Pow", x, g.constant(exponent, np.float32))


@operator("rsqrt")
def _rsqrt(g: Builder, op: Step) -> str:
    return g("Reciprocal", g("Sqrt", g.value(op.arguments["self"])))


_REDUCE = {"mean": "ReduceMean", "sum": "ReduceSum", "amax": "ReduceMax", "amin": "ReduceMin",
           "linalg_vector_norm": "ReduceL2", "norm": "ReduceL2"}  # fmt: skip


@operator("mean.dim sum.dim_IntList amax amin linalg_vector_norm norm.ScalarOpt_dim "
          "mean sum", "as far as ONNX's are followed")  # fmt: skip
def _reduce(g: Builder, op: Step) -> str:
    a = op.arguments
    x = a["self"]
    order = a.get("ord", a.get("p", 2))
    if order not in (2, None):
        raise op.refuse(f"order {order}", "is not the Euclidean norm", "use p=2")
    dims = a.get("dim")
    axes = range(len(x.shape)) if not dims and dims != 0 else np.atleast_1d(dims)
    at = g.indices(*sorted(int(d) % len(x.shape) for d in axes))
    kind = _REDUCE[op.target.split(".")[1]]
    return g(kind, g.value(x), at, keepdims=int(a.get("keepdim", False)))

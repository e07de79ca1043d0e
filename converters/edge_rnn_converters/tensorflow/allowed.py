"""What a signature may do. TensorFlow is given only what was looked at here: the nodes and
functions that the signature reaches, each of which only computes numbers from numbers."""

from __future__ import annotations

from dataclasses import dataclass

from edge_rnn.errors import ModelError
from edge_rnn_converters.refused import SAVED_OP, SAVED_REFUSED
from edge_rnn_converters.source import refuse
from edge_rnn_converters.tensorflow.graphdef import Node, SavedGraph, Signature, Tensor

DEFAULT = "serving_default"
_INIT = "__saved_model_init_op"
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_VARIABLE, _CONSTANT = "VarHandleOp", "Const"

COMPUTES = frozenset({
    "Abs", "Add", "AddN", "AddV2", "All", "Any", "ArgMax", "ArgMin", "AvgPool", "BatchMatMul",
    "BatchMatMulV2", "BatchMatMulV3", "BatchToSpaceND", "BiasAdd", "BroadcastArgs",
    "BroadcastTo", "Cast", "Ceil", "ClipByValue", "Concat", "ConcatV2", "Const", "Conv2D",
    "Cos", "Cosh", "Cumsum", "DepthwiseConv2dNative", "Div", "DivNoNan", "Einsum", "Elu",
    "EmptyTensorList", "EnsureShape", "Equal", "Erf", "Erfc", "Exp", "ExpandDims", "Expm1",
    "Fill", "Floor", "FloorDiv", "FloorMod", "FusedBatchNorm", "FusedBatchNormV2",
    "FusedBatchNormV3", "Gather", "GatherNd", "GatherV2", "Greater", "GreaterEqual", "Identity",
    "IdentityN", "If", "InvertPermutation", "IsFinite", "IsInf", "IsNan", "L2Loss", "LeakyRelu",
    "Less", "LessEqual", "LinSpace", "Log", "Log1p", "LogSoftmax", "LogicalAnd", "LogicalNot",
    "LogicalOr", "MatMul", "Max", "MaxPool", "Maximum", "Mean", "Min", "Minimum", "MirrorPad",
    "Mul", "MulNoNan", "Neg", "NoOp", "NotEqual", "OneHot", "OnesLike", "Pack", "Pad", "PadV2",
    "PartitionedCall", "Pow", "PreventGradient", "Prod", "Range", "Rank", "ReadVariableOp",
    "RealDiv", "Reciprocal", "Relu", "Relu6", "Reshape", "ResourceGather", "ReverseV2", "Round",
    "Rsqrt", "Select", "SelectV2", "Selu", "Shape", "ShapeN", "Sigmoid", "Sign", "Sin", "Sinh",
    "Size", "Slice", "Softmax", "Softplus", "Softsign", "SpaceToBatchND", "Split", "SplitV",
    "Sqrt", "Square", "SquaredDifference", "Squeeze", "StatefulPartitionedCall", "StatelessIf",
    "StatelessWhile", "StopGradient", "StridedSlice", "Sub", "Sum", "Tan", "Tanh",
    "TensorListElementShape", "TensorListFromTensor", "TensorListGetItem", "TensorListLength",
    "TensorListPopBack", "TensorListPushBack", "TensorListReserve", "TensorListSetItem",
    "TensorListStack", "Tile", "TopKV2", "Transpose", "TruncateDiv", "TruncateMod", "Unpack",
    "Where", "While", "Xdivy", "Xlog1py", "Xlogy", "ZerosLike",
})  # fmt: skip
"""Operations whose results are all that they do: nothing outside of the graph is read, written or
called, and the same arguments give the same results."""


@dataclass(frozen=True, slots=True)
class Reached:
    """What a signature needs: the call of its function, the constants that it is called with, the
    functions behind it; arguments and results in the function's order; the objects that are its
    variables, by the node that hands them in."""

    call: Node
    constants: tuple[Node, ...]
    functions: tuple[str, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    variables: dict[str, int]


def checked(saved: SavedGraph, wanted: str) -> Reached:
    """What the signature `wanted` needs ("": "serving_default", or the only one).

    Raises UnsupportedError naming a signature that is not there, or an operation that may do more
    than compute, and the node that it is; ModelError where names lead nowhere.
    """
    name, signature = _chosen(saved, wanted)
    reached = _call(saved, name, signature)
    for node in (reached.call, *reached.constants):
        _check(node, f"signature {name!r}")
    for function in reached.functions:
        for node in saved.functions[function].nodes:
            _check(node, f"function {function!r}")
    return reached


def _chosen(saved: SavedGraph, wanted: str) -> tuple[str, Signature]:
    names = sorted(set(saved.signatures) - {_INIT})
    name = wanted or (names[0] if len(names) == 1 else DEFAULT)
    if name not in names:
        has = f"the SavedModel has {', '.join(map(repr, names)) or 'none'}"
        raise refuse(f"signature {name!r}", "name", has, "choose one with --signature NAME")
    return name, saved.signatures[name]


def _call(saved: SavedGraph, name: str, signature: Signature) -> Reached:
    """Raises UnsupportedError where the signature calls no function, as TensorFlow 2's do."""
    called = {tensor.node for tensor in signature.outputs}
    call = saved.nodes.get(called.pop()) if len(called) == 1 else None
    if call is None or call.op not in _CALLS or not call.functions:
        why = "is not the call of a function, as tf.saved_model.save and model.export make it"
        raise refuse(f"signature {name!r}", "graph", why, "save the model with TensorFlow 2")
    given = [saved.nodes.get(text.partition(":")[0]) for text in call.inputs]
    asked = {tensor.node: tensor for tensor in signature.inputs}
    arguments = [asked[node.name] for node in given if node is not None and node.name in asked]
    rest = [node for node in given if node is None or node.name not in asked]
    constants = tuple(node for node in rest if node is not None and node.op == _CONSTANT)
    for node in rest:
        if node is None or node.op not in (_CONSTANT, _VARIABLE):
            what = f"{node.op} {node.name!r}" if node else "nothing"
            why = f"is called with the result of {what}"
            raise refuse(f"signature {name!r}", "graph", why, "export the model again")
    return Reached(
        call,
        constants,
        tuple(_behind(saved, call)),
        tuple(arguments),
        tuple(sorted(signature.outputs, key=lambda tensor: tensor.index)),
        _variables(saved, call, given),
    )


def _behind(saved: SavedGraph, call: Node) -> dict[str, None]:
    """The functions that a call leads to."""
    found: dict[str, None] = {}
    left = list(call.functions)
    while left:
        name = left.pop()
        if name in found:
            continue
        if name not in saved.functions:
            raise ModelError(f"there is no function {name!r}")
        found[name] = None
        left += (f for node in saved.functions[name].nodes for f in node.functions)
    return found


def _variables(saved: SavedGraph, call: Node, given: list[Node | None]) -> dict[str, int]:
    bound = saved.bound.get(call.functions[0], ())
    last = given[len(given) - len(bound) :]
    found = {node.name: number for node, number in zip(last, bound, strict=False)
             if node is not None and node.op == _VARIABLE}  # fmt: skip
    for node in given:
        if node is not None and node.op == _VARIABLE and node.name not in found:
            raise ModelError(f"node {node.name!r}: no object is bound to this variable")
    return found


def _check(node: Node, where: str) -> None:
    if node.op in COMPUTES:
        return
    why, way_out = SAVED_REFUSED.get(node.op, SAVED_OP)
    raise refuse(f"node {node.name!r} of {where}", f"operation {node.op!r}", why, way_out)

"""A signature's function in TensorFlow: to be run, and as a TFLite file of fixed sizes."""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_rnn.errors import ModelError, UnsupportedError
from edge_rnn.graph import F32
from edge_rnn_converters.source import refuse
from edge_rnn_converters.tensorflow.allowed import COMPUTES, Reached
from edge_rnn_converters.tensorflow.graphdef import SavedGraph, assembled

Shape: TypeAlias = tuple[int | None, ...]

_ELEMENT_SHAPE = {
    "TensorListReserve": 0, "TensorListFromTensor": 1, "TensorListStack": 1, "TensorListGetItem": 2,
    "EmptyTensorList": 0, "TensorListPopBack": 1,
}  # fmt: skip
"""Where operations on lists are told the shape of a list's elements."""
_COUNT = count()
_WAY_OUT = "where it was made, save the model with model.save('m.keras')"


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """What a signature reaches, with the values of its variables; `tf` is TensorFlow."""

    tf: Any
    saved: SavedGraph
    reached: Reached
    variables: Mapping[str, Any]

    def function(self, shapes: Sequence[Shape], batch: int | None = None) -> Any:
        """A function of arguments of these shapes, giving the results in order; with `batch`, what
        it was saved with about the shapes inside is left out, and lists hold elements of so many.

        Raises ModelError for a graph that TensorFlow reads otherwise than we do, ValueError, or an
        error of TensorFlow's, where it does not fit together.
        """
        tf, reached = self.tf, self.reached
        raw = assembled(self.saved, (reached.call, *reached.constants), reached.functions)
        graph = tf.compat.v1.GraphDef.FromString(raw)
        _check(graph)
        _rename(graph, f"_of_{next(_COUNT)}")
        if batch is not None:
            _fix(tf, graph, batch)

        def body(*arguments: Any) -> Any:
            inside = tf.compat.v1.get_default_graph()
            given = dict(zip((x.node for x in reached.inputs), arguments, strict=True))
            for name, variable in self.variables.items():
                inside.watch_variable(variable)
                given[name] = inside.capture(variable.handle)
            results = [f"{y.node}:{y.index}" for y in reached.outputs]
            return tf.graph_util.import_graph_def(
                graph, input_map=given, return_elements=results, name=""
            )

        specs = [
            tf.TensorSpec(shape, tf.dtypes.as_dtype(x.dtype), name=f"x{k}")
            for k, (x, shape) in enumerate(zip(reached.inputs, shapes, strict=True))
        ]
        with _muted():
            return tf.compat.v1.wrap_function(body, specs)

    def tflite(self, shapes: Sequence[Shape]) -> bytes:
        """The function for arguments of these sizes, by TensorFlow's own converter.

        Raises UnsupportedError with what that converter says where it can't.
        """
        try:
            function = self.function(shapes, shapes[0][0])
            with _muted():
                converter = self.tf.lite.TFLiteConverter.from_concrete_functions([function])
                return bytes(converter.convert())
        except ModelError:
            raise
        except Exception as e:
            # TensorFlow raises whatever it likes, with every place that it passed through.
            said = " ".join(str(e).split())[:300]
            why = f"TensorFlow's converter to TFLite refuses it: {said}"
            raise refuse("signature", "graph", why, _WAY_OUT) from e

    def run(self, function: Any, arguments: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """The results of a function of this program."""
        types = (self.tf.dtypes.as_dtype(x.dtype) for x in self.reached.inputs)
        given = [self.tf.constant(a, kind) for a, kind in zip(arguments, types, strict=True)]
        with _muted():
            return [np.asarray(y) for y in function(*given)]


def program(saved: SavedGraph, reached: Reached, values: Mapping[str, F32]) -> Program:
    """The signature in TensorFlow. Raises UnsupportedError where that is not installed."""
    tf = _tensorflow()
    with _muted(), tf.device("CPU"):
        variables = {name: tf.Variable(value) for name, value in values.items()}
    return Program(tf, saved, reached, variables)


def _tensorflow() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with _muted():
            import tensorflow
    except ImportError as e:
        raise UnsupportedError(
            "a SavedModel without Keras's description of its layers (keras_metadata.pb) is read "
            "with TensorFlow, which is not installed: pip install 'edge-rnn[tensorflow]'; or, "
            f"{_WAY_OUT}, or make a .tflite with TFLiteConverter.from_keras_model"
        ) from e
    for name in ("tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return tensorflow


def _nodes(graph: Any) -> Iterator[Any]:
    """Every node, those of functions too."""
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def


def _check(graph: Any) -> None:
    """The same look as before at what is handed on, in case that bytes can be read two ways."""
    for node in _nodes(graph):
        if node.op not in COMPUTES:
            raise ModelError(f"node {node.name!r} is {node.op!r} to TensorFlow: it is damaged")


def _rename(graph: Any, end: str) -> None:
    """Give the functions names of their own: TensorFlow knows each name once in a process."""
    for function in graph.library.function:
        function.signature.name += end
    for node in _nodes(graph):
        for attribute in node.attr.values():
            for func in _named(attribute):
                func.name += end


def _named(attribute: Any) -> Iterator[Any]:
    """The functions that an attribute names, as `graphdef` finds them."""
    for func in (*([attribute.func] if attribute.HasField("func") else []), *attribute.list.func):
        yield func
        for inner in func.attr.values():
            yield from _named(inner)


def _fix(tf: Any, graph: Any, batch: int) -> None:
    """Leave only the shapes that follow from the arguments: those that were written down were of
    any batch, and TFLite's lists must know the shape of what they hold."""
    for node in graph.node:
        node.attr.pop("_output_shapes", None)
    for function in graph.library.function:
        for argument in function.arg_attr.values():
            argument.attr.pop("_output_shapes", None)
        constants = {node.name: node for node in function.node_def if node.op == "Const"}
        for node in list(function.node_def):
            node.attr.pop("_output_shapes", None)
            if node.op in ("While", "StatelessWhile"):
                node.attr.pop("output_shapes", None)
            if node.op in _ELEMENT_SHAPE:
                _fix_elements(tf, function, node, constants, batch)


def _fix_elements(
    tf: Any, function: Any, node: Any, constants: Mapping[str, Any], batch: int
) -> None:
    """Give a list's elements the batch for the one size that is open, in a constant of its own."""
    at = _ELEMENT_SHAPE[node.op]
    constant = constants.get(node.input[at].partition(":")[0])
    if constant is None:
        return
    sizes = tf.make_ndarray(constant.attr["value"].tensor)
    if (sizes < 0).sum() != 1 or not sizes.ndim:
        return
    fixed = function.node_def.add()
    fixed.CopyFrom(constant)
    fixed.name = f"{node.name}/elements"
    known = np.where(sizes < 0, batch, sizes).astype(sizes.dtype)
    fixed.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(known))
    node.input[at] = f"{fixed.name}:output:0"


@contextmanager
def _muted() -> Iterator[None]:
    """TensorFlow tells of itself on stderr, its compiled part past all of Python's settings."""
    kept = os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        with redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(kept, 2)
        os.close(nothing)
        os.close(kept)

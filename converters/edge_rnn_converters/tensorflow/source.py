"""SavedModels through a signature: translated by TensorFlow to TFLite, whose reader recognises the
cells, and compared with the signature as TensorFlow runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edge_rnn_converters.detect import Format
from edge_rnn_converters.source import WINDOW, CannotRunError, Options, Source, refuse
from edge_rnn_converters.tensorflow.allowed import COMPUTES, checked
from edge_rnn_converters.tensorflow.graphdef import Tensor, load
from edge_rnn_converters.tensorflow.program import Program, program
from edge_rnn_converters.tensorflow.weights import values
from edge_rnn_converters.tensors.run import Engine, GraphRunner
from edge_rnn_converters.tflite.file import parsed
from edge_rnn_converters.tflite.source import source as tflite_source

__all__ = ["COMPUTES", "read"]

STEPS = 96
"""How many a graph that takes any number is translated for: a multiple of most strides."""


def read(path: Path, form: Format, options: Options) -> Source:
    """The model that a signature of a SavedModel folder computes, `options.signature` or else
    "serving_default".

    Before TensorFlow is loaded, every operation that the signature reaches is looked at, and
    TensorFlow is given these alone. A batch that is left open is one; a graph of any number of
    steps is translated for 96 of them, or for `options.window`.

    Raises UnsupportedError naming the operation that can't be run, or run faithfully, and where
    TensorFlow is not installed, ModelError for damage, MissingExtraError without LiteRT.
    """
    saved = load(path)
    reached = checked(saved, options.signature)
    shapes = [_shape(x, options) for x in reached.inputs]
    if not shapes:
        raise refuse("signature", "arguments", "has none", "export a model that takes a sequence")
    made = program(saved, reached, values(path, saved, reached))
    file = parsed(made.tflite(shapes))
    found = tflite_source(file, options, lambda ins, outs: _engine(made, ins, outs))
    found = replace(found, framework=f"TensorFlow {saved.version} SavedModel")
    return _of_any_length(found) if _any_length(reached.inputs, options) else found


def _shape(x: Tensor, options: Options) -> tuple[int, ...]:
    """The sizes that an argument is translated for. Raises UnsupportedError for an open one."""
    told = options.inputs.get(x.key)
    sizes = told if isinstance(told, tuple) else x.shape
    usual = (1, options.window or STEPS)
    if sizes is None or any(n is None for n in sizes[2:]) or not sizes:
        way_out = f"say it: --input {x.key}=1x96x6"
        raise refuse(f"argument {x.key!r}", f"shape {sizes}", "how many features?", way_out)
    return tuple(usual[k] if n is None else n for k, n in enumerate(sizes))


def _any_length(inputs: Sequence[Tensor], options: Options) -> bool:
    """Does the signature take any number of steps?"""
    return any(x.shape is not None and None in x.shape[1:2] and x.key not in options.inputs
               for x in inputs)  # fmt: skip


def _of_any_length(source: Source) -> Source:
    """The source without the number of steps that it was translated for, which is not its own."""
    own, run = source.regime.window, source.run
    assert isinstance(run, GraphRunner)  # noqa: S101 - as `as_source` makes it
    notes = tuple(note for note in source.notes if note != WINDOW.format(own, own))
    return replace(source, notes=notes, run=replace(run, steps=None),
                   regime=replace(source.regime, window=None))  # fmt: skip


def _engine(made: Program, inputs: Sequence[str], outputs: Sequence[str]) -> Engine:
    """The signature in TensorFlow, its tensors known by the file's names. Raises CannotRunError."""
    name = f"tensorflow {made.tf.__version__}"
    try:
        function = made.function([x.shape or () for x in made.reached.inputs])
    except Exception as e:
        # TensorFlow raises whatever it likes.
        raise CannotRunError(f"{name} can't load it: {e}") from e

    def call(feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        results = made.run(function, [feed[name] for name in inputs])
        return dict(zip(outputs, results, strict=True))

    return Engine(name, call)

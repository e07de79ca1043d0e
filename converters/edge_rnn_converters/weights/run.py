"""Runs a described network with the framework whose layout its arrays have, to check it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_rnn.graph import F32, Schedule
from edge_rnn_converters.source import CannotRunError, Runner, SourceRun
from edge_rnn_converters.weights.layer import Place


@dataclass(frozen=True, slots=True)
class _Nothing:
    """Arrays in ONNX's layout stand in a graph, which these have not."""

    def __call__(self, x: F32) -> SourceRun:
        """Raises CannotRunError."""
        raise CannotRunError("nothing runs arrays in ONNX's layout without their graph")


def runner(places: Sequence[Place], schedule: Schedule | None) -> Runner:
    """What runs the layers, whose outputs are there at these steps (None: when a window is whole,
    which only PyTorch's layout has, both directions in one layer): torch for PyTorch's layout,
    Keras for Keras's."""
    match places[0].layout:
        case "pytorch":
            from edge_rnn_converters.weights.run_torch import TorchRunner

            return TorchRunner(places, schedule)
        case "keras" if schedule is not None:
            from edge_rnn_converters.weights.run_keras import KerasRunner

            return KerasRunner(places, schedule)
    return _Nothing()

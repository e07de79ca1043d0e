"""PyTorch sources: what is called to be recorded, and run again for the check."""

from __future__ import annotations

import copy
import hashlib
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edge_rnn.errors import MissingExtraError
from edge_rnn_converters.detect import Format
from edge_rnn_converters.source import LAST_ONLY, Options, Regime, Source, refuse
from edge_rnn_converters.tensors.execute import as_source
from edge_rnn_converters.tensors.run import Engine, GraphRunner, Layout
from edge_rnn_converters.tensors.values import Role
from edge_rnn_converters.torch import archive, script
from edge_rnn_converters.torch.guess import guess
from edge_rnn_converters.torch.program import Program
from edge_rnn_converters.torch.trace import Recordable, Traced, trace
from edge_rnn_converters.torch.translate import WHOLE, translate


def read(path: Path, form: Format, options: Options) -> Source:
    """The model in a TorchScript archive or an exported program (.pt2).

    Raises UnsupportedError naming the operator and argument that can't be run faithfully,
    ModelError for a damaged file, MissingExtraError without torch.
    """
    _torch()
    if form == "pt2":
        program = archive.load(path)
        return _source(Recordable(program.fresh, program.example(), program.names), form)
    blob = script.load(path)
    with _quiet():
        module = script.module(blob)
        wanted = _arguments(module.forward)
        given = _given(wanted, options)
        example = given or guess(module, len(wanted))
    names = _names(wanted, example)
    fresh = lambda: _callable(script.module(blob))  # noqa: E731
    return _source(Recordable(fresh, example, names, not given), "TorchScript")


def read_module(module: Any, options: Options) -> Source:
    """The model that a live `torch.nn.Module` is, in evaluation mode.

    Raises as `read` does; UnsupportedError without example inputs.
    """
    _torch()
    if not options.example_inputs:
        why = "are missing, and a module does not tell the shape of its input"
        raise refuse(
            "module", "example_inputs", why, "give them: (torch.zeros(1, STEPS, FEATURES),)"
        )

    def fresh() -> tuple[Callable[..., Any], dict[int, str]]:
        return _callable(copy.deepcopy(module).cpu().eval())

    names = _names(_arguments(module.forward), options.example_inputs)
    return _source(Recordable(fresh, options.example_inputs, names), type(module).__name__)


def digest(module: Any) -> str:
    """SHA-256 over the module's weights, as raw bytes in the order of its `state_dict`."""
    found = hashlib.sha256()
    for tensor in module.state_dict().values():
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _torch() -> Any:
    try:
        import torch
    except ImportError as e:
        raise MissingExtraError("torch", extra="torch", need="to read PyTorch models") from e
    return torch


def _callable(module: Any) -> tuple[Callable[..., Any], dict[int, str]]:
    import torch

    named = [*module.named_parameters(), *module.named_buffers()]

    def run(*arguments: Any) -> Any:
        with torch.jit.optimized_execution(False):
            return module(*arguments)

    return run, {id(tensor): name for name, tensor in named}


def _source(recordable: Recordable, what: str) -> Source:
    import torch

    with _quiet():
        traced = trace(recordable, WHOLE)
    graph = translate(traced.program, f"torch {torch.__version__}, {what}")
    source = as_source(graph, lambda: _open(recordable, traced.program))
    return source if traced.loop is None else _over_sequences(source, traced)


def _over_sequences(source: Source, traced: Traced) -> Source:
    """The source runs a loop of its own over whole sequences; the model is one step of it."""
    assert isinstance(source.run, GraphRunner)  # noqa: S101 - as_source made it
    (port,), ((output, layout),) = source.run.inputs, source.run.outputs
    at, rank = traced.loop, len(layout)
    assert at is not None  # noqa: S101 - there is a loop
    time = None if traced.ends else at if rank > at else rank - 1
    run = replace(
        source.run,
        inputs=(replace(port, layout=_with_time(port.layout, at)),),
        outputs=((output, layout if time is None else _with_time(layout, time)),),
        states=(), steps=None, last_only=traced.ends, carries=False,
    )  # fmt: skip
    notes = (LAST_ONLY.format("the model"),) if traced.ends else ()
    return replace(source, run=run, regime=Regime(None, traced.ends), notes=source.notes + notes)


def _with_time(layout: Layout, at: int) -> Layout:
    return (*layout[:at], Role.TIME, *layout[at + 1 :])


def _open(recordable: Recordable, program: Program) -> Engine:
    """The source itself; a state that it keeps is its own, and is given back as it came."""
    import torch
    from torch.utils import _pytree

    with _quiet():
        function, _ = recordable.fresh()
    leaves, spec = _pytree.tree_flatten(recordable.example)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]

    def call(feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        for place, name in zip(places, recordable.names, strict=True):
            leaves[place] = torch.tensor(feed[name])
        with _quiet(), torch.inference_mode():
            result = function(*_pytree.tree_unflatten(leaves, spec))
        tensors = [t for t in _pytree.tree_leaves(result) if isinstance(t, torch.Tensor)]
        outputs = {f"output_{i}": t.numpy() for i, t in enumerate(tensors)}
        kept = {f"{c.before.name}_next": feed.get(c.before.name) for c in program.carried}
        return {**outputs, **kept}

    return Engine(f"torch {torch.__version__}", call)


def _arguments(forward: Any) -> list[str]:
    """The names of what a module's `forward`, or TorchScript's, must be given."""
    schema = getattr(forward, "schema", None)
    if schema is not None:
        return [a.name for a in schema.arguments[1:] if not a.has_default_value()]
    return list(inspect.signature(forward).parameters)


def _given(wanted: list[str], options: Options) -> tuple[Any, ...]:
    """What to call with, where each argument's shape or number is known."""
    import torch

    if not set(wanted) <= set(options.inputs):
        return ()
    given = (options.inputs[name] for name in wanted)
    return tuple(torch.zeros(g) if isinstance(g, tuple) else _number(g) for g in given)


def _number(given: float) -> float:
    """A whole number as an int: TorchScript tells the two apart."""
    return int(given) if given == int(given) else given


def _names(arguments: list[str], example: tuple[Any, ...]) -> tuple[str, ...]:
    """The names of the tensor inputs: those of the arguments, numbered inside tuples."""
    import torch
    from torch.utils import _pytree

    names: list[str] = []
    for i, given in enumerate(example):
        name = arguments[i] if i < len(arguments) else f"input_{i}"
        tensors = [t for t in _pytree.tree_leaves(given) if isinstance(t, torch.Tensor)]
        names += [name] if len(tensors) == 1 else [f"{name}_{k}" for k in range(len(tensors))]
    return tuple(names)


@contextmanager
def _quiet() -> Iterator[None]:
    """PyTorch warns of its own slow paths and of weights it would rather pack."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

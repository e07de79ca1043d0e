"""Weights without a network, and the description of one, as a source to convert."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from edge_rnn.config.source import Source as Text
from edge_rnn.container import parse_json
from edge_rnn.errors import ConfigError
from edge_rnn.graph import output_schedule
from edge_rnn_converters.detect import Format
from edge_rnn_converters.fold import fold
from edge_rnn_converters.gates import Framework
from edge_rnn_converters.source import Options, Source, UndescribedError
from edge_rnn_converters.weights.arrays import CONFIG, Arrays, read_arrays
from edge_rnn_converters.weights.build import build, input_width
from edge_rnn_converters.weights.guess import Guess, guess, network
from edge_rnn_converters.weights.layer import Place, place
from edge_rnn_converters.weights.run import runner
from edge_rnn_converters.weights.schema import Description, described

_MADE_BY: dict[Format, str] = {
    "torch-checkpoint": "PyTorch state_dict",
    "safetensors": "safetensors",
    "npz": "NumPy arrays",
    "hf-folder": "Hugging Face folder",
    "h5-weights": "Keras weights",
}


def read(path: Path, form: Format, options: Options) -> Source:
    """The network that a description, or the arrays alone, make of the arrays in a file.

    Raises UndescribedError where arrays alone don't tell the network, ConfigError at a line of
    the description that doesn't fit them, else as `read_arrays`.
    """
    arrays = read_arrays(path, form)
    description = described(_text(path, form, arrays, options))
    head = description.head
    layout = head.layout or _layout(form)
    arrays = arrays.under(head.prefix)
    places = [place(description, i, layout, arrays) for i in range(len(description.layers))]
    width = _width(description, places[0])
    model = build(places, width)
    _check_unused(description, places, arrays)
    run = runner(places, None if model.looks_ahead else output_schedule(model))
    return Source(fold(model), _MADE_BY[form], arrays.notes, run)


def template(path: Path, form: Format) -> str:
    """A description of the network in the file, as TOML, as far as its arrays tell."""
    return _guess(path, form, read_arrays(path, form)).text


def _layout(form: Format) -> Framework:
    return "keras" if form == "h5-weights" else "pytorch"


def _text(path: Path, form: Format, arrays: Arrays, options: Options) -> Text:
    """The description: a file, a line, or what the arrays tell."""
    if options.description is not None:
        return _file(options.description)
    if options.network:
        return Text(Path("--network"), network(options.network, arrays, _layout(form)))
    guessed = _guess(path, form, arrays)
    if guessed.sure:
        return Text(Path("description"), guessed.text)
    raise UndescribedError(
        f"{path.name}: holds arrays and no network, and these may be of several: their order and "
        "the activations between them are not in the file; say what it is in a line "
        '(--network "lstm, linear") or a file (--description net.toml; --describe net.toml writes '
        "it as far as the arrays tell)",
        guessed.text,
    )


def _file(path: Path) -> Text:
    try:
        return Text(path, path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as e:
        reason = getattr(e, "strerror", None) or "not UTF-8"
        raise ConfigError(f"{path}: can't be read: {reason}") from e


def _guess(path: Path, form: Format, arrays: Arrays) -> Guess:
    told: Any = {}
    if form == "hf-folder" and (path / CONFIG).is_file():
        told = parse_json((path / CONFIG).read_bytes(), CONFIG)
    return guess(arrays.under(None), _layout(form), told if isinstance(told, dict) else {})


def _width(description: Description, first: Place) -> int:
    given, told = description.head.input, input_width(first)
    if given is None and told is None:
        raise description.text.error(("input",), "missing; the first layer's arrays don't tell")
    if given is not None and told not in (None, given):
        raise description.text.error(("input",), f"is {given}, but the first layer reads {told}")
    return given or told or 0


def _check_unused(description: Description, places: Sequence[Place], arrays: Arrays) -> None:
    """A layer that was forgotten computes something else without an error: arrays must be used."""
    used = {name for p in places for name in p.used}
    patterns = (*description.head.ignore, "*num_batches_tracked")
    left = [
        name for name in arrays.values
        if name not in used and not any(fnmatchcase(name, p) for p in patterns)
    ]  # fmt: skip
    if left:
        raise description.text.error(
            ("ignore",),
            f"no layer uses {', '.join(left[:20])}: add the layer, or name the array in ignore",
        )

"""The names other programs rely on, pinned."""

from __future__ import annotations

import inspect

import edge_rnn
import edge_rnn_converters
from edge_rnn import errors


def parameters(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_exported_names() -> None:
    assert edge_rnn.__all__ == ["Model", "Session", "load", "save"]
    assert "convert" in edge_rnn_converters.__all__


def test_signatures() -> None:
    session = edge_rnn.Session
    assert parameters(edge_rnn.load) == ["path"]
    assert parameters(edge_rnn.save) == ["model", "path"]
    assert parameters(session)[:3] == ["model", "capacity", "max_batch"]
    assert inspect.signature(session).parameters["capacity"].default == 1000
    assert inspect.signature(session).parameters["max_batch"].default == 256
    assert parameters(session.step) == ["self", "streams", "x"]
    assert parameters(session.run) == ["self", "stream", "x"]
    assert parameters(session.slots) == ["self", "streams"]
    assert parameters(session.step_slots) == ["self", "slots", "x", "out", "emitted"]
    assert inspect.signature(session.step_slots).parameters["emitted"].default is None
    assert parameters(session.reset) == ["self", "stream"]
    assert parameters(session.snapshot) == ["self", "streams"]
    assert parameters(session.restore) == ["self", "blob"]
    assert parameters(edge_rnn_converters.convert)[:2] == ["source", "quantize"]


def test_every_error_is_ours_and_a_builtin() -> None:
    ours = [e for e in vars(errors).values() if isinstance(e, type)]
    for e in ours:
        assert issubclass(e, errors.EdgeRnnError)
        assert e.__name__ in errors.__doc__ or e is errors.EdgeRnnError
        if e is not errors.EdgeRnnError:
            assert any(b in e.__mro__ for b in (ValueError, LookupError, OSError, ImportError))

"""Every recurrent Keras layer with attributes drawn at random, against Keras itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_rnn import reference
from edge_rnn_converters.detect import detect
from edge_rnn_converters.keras.source import read
from edge_rnn_converters.source import Options
from tests.converters.keras_check import sample
from tests.converters.keras_models import H, I, keras, layers, randomized
from tests.effort import examples

ACTS = ["tanh", "relu6", "softsign", "hard_sigmoid", "elu", "selu", "gelu", "softplus", "mish",
        "hard_silu", "hard_tanh", "log_sigmoid", "silu", "sigmoid"]  # fmt: skip
T = 7
GATES = ["sigmoid", "hard_sigmoid", "hard_tanh", "softsign"]
CELLS = {
    "SimpleRNN": layers.SimpleRNNCell, "LSTM": layers.LSTMCell, "GRU": layers.GRUCell
}  # fmt: skip


@st.composite
def attributes(draw: st.DrawFn, kind: str) -> dict[str, Any]:
    found = {
        "units": H,
        "activation": draw(st.sampled_from(ACTS)),
        "use_bias": draw(st.booleans()),
    }
    if kind != "SimpleRNN":
        found["recurrent_activation"] = draw(st.sampled_from(GATES))
    if kind == "GRU":
        found["reset_after"] = draw(st.booleans())
    return found


Make = Callable[[], Any]


@st.composite
def recurrent(draw: st.DrawFn, **given: Any) -> Make:
    """What makes a recurrent layer, by itself or around cells."""
    how = {
        "return_sequences": draw(st.booleans()), "go_backwards": draw(st.booleans()),
        "unroll": draw(st.booleans()), **given,
    }  # fmt: skip
    kind = draw(st.sampled_from([*CELLS, "RNN"]))
    if kind != "RNN":
        chosen = draw(attributes(kind))
        return lambda: getattr(layers, kind)(**chosen, **how)
    kinds = draw(st.lists(st.sampled_from(list(CELLS)), min_size=1, max_size=3))
    cells = [(CELLS[kind], draw(attributes(kind))) for kind in kinds]

    def make() -> Any:
        made = [cell(**chosen) for cell, chosen in cells]
        return layers.RNN(made if len(made) > 1 else made[0], **how)

    return make


@st.composite
def both_ways(draw: st.DrawFn) -> Make:
    sequences, mode = draw(st.booleans()), draw(st.sampled_from(["concat", "sum", "mul", "ave"]))
    forward = draw(recurrent(return_sequences=sequences, go_backwards=False))
    backward = draw(st.none() | recurrent(return_sequences=sequences, go_backwards=True))

    def make() -> Any:
        ways = forward(), backward() if backward else None
        return layers.Bidirectional(ways[0], merge_mode=mode, backward_layer=ways[1])

    return make


@given(make=recurrent() | both_ways(), ending=st.sampled_from(["keras", "h5"]))
@settings(examples(25), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_recurrent_layers(make: Make, ending: str, tmp_path: Path) -> None:
    """In one width, so that JAX compiles what it runs only once."""
    model = randomized(keras.Sequential([layers.Input((T, I)), make()]))
    path = tmp_path / f"m.{ending}"
    model.save(path)
    converted = read(path, detect(path), Options()).model
    x = sample(converted, T)
    expected = np.asarray(model(x[None]))[0].reshape(-1, model.output_shape[-1])
    y = reference.run(converted, x)[-len(expected) :]
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)

"""Weights with a description of their network, against PyTorch's and Keras's own layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from edge_rnn import reference
from edge_rnn.errors import ConfigError
from edge_rnn.graph import Gru, Lstm, Model
from edge_rnn_converters import convert, convert_with_report
from tests.effort import examples

Weights = dict[str, np.ndarray]


def weights(seed: int = 0, **shapes: tuple[int, ...]) -> Weights:
    """Small normal numbers; `__` in a name is a dot, and a variance is positive."""
    rng = np.random.default_rng(seed)
    arrays = {n.replace("__", "."): rng.normal(0, 0.4, s) for n, s in shapes.items()}
    return {
        n: (np.abs(a) + 0.1 if n.endswith(("var", "variance")) else a).astype(np.float32)
        for n, a in arrays.items()
    }


def cell(name: str, k: int, I: int, H: int, seed: int = 0, end: str = "_l0") -> Weights:
    """A PyTorch cell of k gates."""
    shapes = {"weight_ih": (k * H, I), "weight_hh": (k * H, H), "bias_ih": (k * H,)}
    shapes["bias_hh"] = (k * H,)
    return weights(seed, **{f"{name}__{role}{end}": shape for role, shape in shapes.items()})


def file(arrays: Mapping[str, np.ndarray], folder: Path) -> Path:
    save_file(dict(arrays), folder / "w.safetensors")
    return folder / "w.safetensors"


def model(arrays: Weights, toml: str, folder: Path, check: Any = "skip") -> Model:
    (folder / "net.toml").write_text(toml)
    return convert(file(arrays, folder), "float32", description=folder / "net.toml", check=check)


def refused(arrays: Weights, toml: str, folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        model(arrays, toml, folder)
    return str(caught.value).removeprefix(str(folder / "net.toml"))


LSTM = '[[layer]]\ntype = "lstm"\nweights = "rnn"\n'
LINEAR = '[[layer]]\ntype = "linear"\nweights = "fc"\n'
FC = weights(9, fc__weight=(3, 6), fc__bias=(3,))

FRAME = (
    weights(
        a__weight=(4, 2, 3), a__bias=(4,), b__weight=(5, 4, 1), b__bias=(5,), p__weight=(4,),
        bn__weight=(4,), bn__bias=(4,), bn__running_mean=(4,), bn__running_var=(4,),
    )
    | cell("rnn", 4, 10, 6)
)  # fmt: skip

TORCH: dict[str, tuple[Weights, str]] = {
    "lstm": (cell("rnn", 4, 5, 6) | FC, LSTM + LINEAR),
    "lstm of three layers": (
        cell("rnn", 4, 5, 6) | cell("rnn", 4, 6, 6, 1, "_l1") | cell("rnn", 4, 6, 6, 2, "_l2"),
        LSTM,
    ),
    "lstm cell": (cell("rnn", 4, 5, 6, end=""), LSTM),
    "lstm without bias": (
        weights(rnn__weight_ih_l0=(24, 5), rnn__weight_hh_l0=(24, 6)), LSTM,
    ),
    "lstm with a projection": (
        weights(
            rnn__weight_ih_l0=(24, 5), rnn__weight_hh_l0=(24, 4), rnn__bias_ih_l0=(24,),
            rnn__bias_hh_l0=(24,), rnn__weight_hr_l0=(4, 6),
            rnn__weight_ih_l1=(24, 4), rnn__weight_hh_l1=(24, 4), rnn__bias_ih_l1=(24,),
            rnn__bias_hh_l1=(24,), rnn__weight_hr_l1=(4, 6),
        ),
        LSTM,
    ),
    "gru": (
        cell("rnn", 3, 5, 6) | cell("rnn", 3, 6, 6, 1, "_l1"), LSTM.replace("lstm", "gru"),
    ),
    "rnn": (cell("rnn", 1, 5, 6), LSTM.replace("lstm", "rnn") + 'activation = "relu"\n'),
    "embedding": (
        weights(emb__weight=(11, 5)) | cell("rnn", 3, 5, 6),
        '[[layer]]\ntype = "embedding"\nweights = "emb"\n' + LSTM.replace("lstm", "gru"),
    ),
    "names of one's own": (
        weights(a=(24, 5), b=(24, 6), c=(24,), d=(24,)),
        '[[layer]]\ntype = "lstm"\n'
        'weights = { weight_ih = "a", weight_hh = "b", bias_ih = "c", bias_hh = "d" }\n',
    ),
    "convolutions over time": (
        weights(a__weight=(6, 5, 3), a__bias=(6,), b__weight=(4, 3, 2)),
        '[[layer]]\ntype = "conv1d"\nweights = "a"\nactivation = "gelu"\nstride = 2\n'
        '[[layer]]\ntype = "conv1d"\nweights = "b"\npadding = "causal"\ndilation = 3\n'
        "groups = 2\n",
    ),
    "pools over time": (
        FC,
        '[[layer]]\ntype = "average_pool"\nkernel = 3\nstride = 1\npadding = "causal"\n'
        '[[layer]]\ntype = "max_pool"\nkernel = 2\n' + LINEAR,
    ),
    "a frame": (
        FRAME | FC,
        'input = 12\n[[layer]]\ntype = "conv1d"\nweights = "a"\nframe = true\n'
        'padding = 1\nactivation = "relu"\n'
        '[[layer]]\ntype = "batch_norm"\nweights = "bn"\n'
        '[[layer]]\ntype = "prelu"\nweights = { weight = "p.weight" }\n'
        '[[layer]]\ntype = "average_pool"\nkernel = 3\nstride = 2\nframe = true\n'
        '[[layer]]\ntype = "conv1d"\nweights = "b"\nframe = true\n'
        '[[layer]]\ntype = "lstm"\nweights = "rnn"\n' + LINEAR,
    ),
    "a frame over time": (
        weights(a__weight=(4, 1, 3), d__weight=(3, 2, 2)),
        'input = 3\n[[layer]]\ntype = "conv1d"\nweights = "a"\nframe = true\n'
        '[[layer]]\ntype = "magnitude"\n[[layer]]\ntype = "pad"\nbefore = 1\n'
        '[[layer]]\ntype = "max_pool"\nkernel = 2\nframe = true\n'
        '[[layer]]\ntype = "conv1d"\nweights = { weight = "d.weight" }\n',
    ),
    "norms": (
        FC
        | weights(
            ln__weight=(6,), ln__bias=(6,), rms__weight=(6,), p__weight=(1,),
            bn__weight=(3,), bn__bias=(3,), bn__running_mean=(3,), bn__running_var=(3,),
        )
        | {"bn.num_batches_tracked": np.array(7)},
        '[[layer]]\ntype = "layer_norm"\nweights = "ln"\n'
        '[[layer]]\ntype = "rms_norm"\nweights = "rms"\n'
        '[[layer]]\ntype = "prelu"\nweights = { weight = "p.weight" }\n' + LINEAR
        + '[[layer]]\ntype = "batch_norm"\nweights = "bn"\nepsilon = 0.01\n'
        '[[layer]]\ntype = "l2_norm"\n[[layer]]\ntype = "tanh"\n[[layer]]\ntype = "log_softmax"\n',
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TORCH)
def test_layers_compute_what_pytorch_computes(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    arrays, toml = TORCH[name]
    head = "input = 6\n" if "pool" in name else ""
    model(arrays, head + toml, tmp_path, check="require")


def keras_layers() -> list[tuple[str, Callable[[Any], list[Any]], str]]:
    return [
        ("lstm", lambda k: [k.LSTM(6, return_sequences=True), k.Dense(3, "softmax")], "softmax"),
        ("gru", lambda k: [k.GRU(6, return_sequences=True), k.Dense(3)], ""),
        (
            "gru",
            lambda k: [k.GRU(6, return_sequences=True, reset_after=False), k.Dense(3, "tanh")],
            "tanh",
        ),
    ]


@pytest.mark.parametrize(("kind", "make", "last"), keras_layers())
def test_weights_that_keras_saved(kind: str, make: Any, last: str, tmp_path: Path) -> None:
    from tests.converters.keras_models import keras, layers

    net = keras.Sequential([keras.Input((None, 5)), *make(layers)])
    for w in net.weights:
        w.assign(np.random.default_rng(1).normal(0, 0.4, w.shape))
    net.save_weights(tmp_path / "net.weights.h5")
    line = f"{kind}, linear" + (f", {last}" if last else "")
    found = convert_with_report(
        tmp_path / "net.weights.h5", "float32", network=line, check="require"
    )
    x = np.random.default_rng(2).normal(size=(30, 5)).astype(np.float32)
    y = np.asarray(net(x[None]))[0]
    np.testing.assert_allclose(reference.run(found.model, x), y, atol=1e-5)


def test_weights_in_onnx_layout_are_those_of_pytorch_in_another_order(tmp_path: Path) -> None:
    for kind, k, order in (("lstm", 4, (0, 3, 1, 2)), ("gru", 3, (1, 0, 2))):
        arrays = cell("rnn", k, 5, 6)
        w, u, b, rb = (np.concatenate([np.split(a, k)[i] for i in order]) for a in arrays.values())
        onnx = {"n.W": w[None], "n.R": u[None], "n.B": np.concatenate([b, rb])[None]}
        toml = f'[[layer]]\ntype = "{kind}"\nweights = "rnn"\n'
        wanted = model(arrays, toml, tmp_path)
        reset = 'reset = "after"\n' if kind == "gru" else ""
        found = model(onnx, 'layout = "onnx"\n' + toml.replace("rnn", "n") + reset, tmp_path)
        x = np.random.default_rng(0).normal(size=(20, 5))
        np.testing.assert_array_equal(reference.run(found, x), reference.run(wanted, x))


@examples(15)
@given(
    kind=st.sampled_from(["lstm", "gru"]),
    I=st.integers(1, 9),
    H=st.integers(1, 9),
    levels=st.integers(1, 3),
)
def test_recurrent_layers_alone_need_no_description(
    kind: str, I: int, H: int, levels: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    k = {"lstm": 4, "gru": 3}[kind]
    arrays = {}
    for level in range(levels):
        arrays |= cell("module.rnn", k, H if level else I, H, level, f"_l{level}")
    found = convert(file(arrays, tmp_path_factory.mktemp("w")), "float32", check="skip")
    assert [type(n) for n in found.nodes] == [{"lstm": Lstm, "gru": Gru}[kind]] * levels
    assert (found.input_width, found.output_width) == (I, H)


ERRORS: dict[str, tuple[str, str]] = {
    "no layer": ("layer = []\n", ":1: layer: is empty"),
    "not TOML": ("[[layer]\n", ":1: not TOML"),
    "no such key": (LSTM + 'units = 3\n', ":4: [layer.1] units: unknown; allowed: weights, ac"),
    "no such type": ('[[layer]]\ntype = "lstmm"\n', ":2: [layer.1] type: is 'lstmm'; allowed: rnn"),
    "no type": (LSTM + "[[layer]]\n", ":4: [layer.2] type: is ''; allowed: rnn, lstm"),
    "keys of an activation": (
        LSTM + '[[layer]]\ntype = "relu"\nslope = 1\n',
        ":6: [layer.2] slope: unknown: relu takes no keys",
    ),
    "no weights": ('[[layer]]\ntype = "lstm"\n', ":1: [layer.1] weights: missing"),
    "no such arrays": (
        LSTM + '[[layer]]\ntype = "linear"\nweights = "head"\n',
        ":6: [layer.2] weights: no array's name begins with 'head'; the arrays are: conv.weight",
    ),
    "no such array": (
        '[[layer]]\ntype = "linear"\nweights = { weight = "fc.w" }\n',
        ":3: [layer.1] weights: no array 'fc.w'; the arrays are: conv.weight (3, 2, 2),",
    ),
    "no such role": (
        LINEAR.replace('"fc"', '{ bias = "fc.bias" }'),
        ":3: [layer.1] weights: no array is its weight; those of its name are fc.bias",
    ),
    "another cell": (
        LSTM.replace("lstm", "gru"),
        ":3: [layer.1] weights: rnn.weight_hh_l0 has shape (24, 6), expected (18, 6)",
    ),
    "another width": (
        LINEAR + LSTM, ":6: [layer.2] weights: its weights read 5 numbers, the layer before makes 3"
    ),
    "another width of a convolution": (
        'input = 4\n[[layer]]\ntype = "l2_norm"\n'
        '[[layer]]\ntype = "conv1d"\nweights = "conv"\n',
        ":6: [layer.2] weights: its weights read 2 numbers, the layer before makes 4; is it a conv",
    ),
    "another input": ("input = 7\n" + LSTM, ":1: input: is 7, but the first layer reads 5"),
    "no input": ('[[layer]]\ntype = "relu"\n', ":1: input: missing; the first layer's arrays don"),
    "a layer forgotten": (LSTM, ":1: ignore: no layer uses conv.weight, fc.bias, fc.weight, s"),
    "an rnn's activation": (
        LSTM.replace("lstm", "rnn"), ":1: [layer.1] activation: missing"
    ),
    "padding ahead": (
        '[[layer]]\ntype = "conv1d"\nweights = "conv"\npadding = 1\n',
        ":4: [layer.1] padding: zeros on both sides let it look ahead",
    ),
    "an embedding later": (
        LSTM + '[[layer]]\ntype = "embedding"\nweights = { weight = "fc.weight" }\n',
        ":5: [layer.2] type: an embedding is the first layer",
    ),
    "keras without a bias": (
        'layout = "keras"\n[[layer]]\ntype = "gru"\n'
        'weights = { kernel = "fc.weight", recurrent_kernel = "square" }\n',
        ":2: [layer.1] reset: missing; the arrays don't tell",
    ),
    "a bad activation": (
        LINEAR + 'activation = "rellu"\n',
        ":4: [layer.1] activation: is \"rellu\"; allowed: linear, relu, ",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("toml", "says"), ERRORS.values(), ids=ERRORS)
def test_errors_name_line_layer_and_arrays(toml: str, says: str, tmp_path: Path) -> None:
    arrays = cell("rnn", 4, 5, 6) | FC | weights(conv__weight=(3, 2, 2), square=(2, 6))
    assert refused(arrays, toml, tmp_path).startswith(says)

"""Every Keras layer around the cells, against Keras: in streams, and in windows where it needs one.

What looks ahead is compared in the float64 reference over one window.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_rnn import reference
from edge_rnn.errors import EdgeRnnError, UnsupportedError
from edge_rnn_converters.detect import detect
from edge_rnn_converters.keras.source import read
from edge_rnn_converters.source import Options
from tests.converters.keras_check import agrees, sample
from tests.converters.keras_models import H, I, keras, layers, made, randomized

SEQ = {"return_sequences": True}

STREAMS: dict[str, list[Any]] = {
    "causal": [layers.Conv1D(4, 3, padding="causal", dilation_rate=2), layers.LSTM(H)],
    "causal strided": [layers.Conv1D(4, 3, padding="causal", strides=2, activation="gelu")],
    "valid": [layers.Conv1D(4, 3, strides=2), layers.MaxPooling1D(2), layers.LSTM(H, **SEQ)],
    "groups": [layers.Conv1D(6, 2, groups=3, use_bias=False), layers.GRU(H)],
    "one tap": [layers.Conv1D(4, 1, activation="softmax"), layers.GRU(H)],
    "separable": [layers.SeparableConv1D(4, 3, depth_multiplier=2, activation="relu")],
    "separable, no bias": [layers.SeparableConv1D(4, 2, strides=2, use_bias=False)],
    "depthwise": [layers.DepthwiseConv1D(3, depth_multiplier=2, activation="tanh")],
    "depthwise strided": [layers.DepthwiseConv1D(2, strides=2, use_bias=False), layers.GRU(2)],
    "padding that a mean takes in": [layers.ZeroPadding1D((2, 0)), layers.AveragePooling1D(3, 1)],
    "padding that a kernel takes in": [
        layers.ZeroPadding1D((4, 0)), layers.Conv1D(3, 3, dilation_rate=2), layers.GRU(H),
    ],
    "max pooling": [layers.MaxPooling1D(3), layers.GRU(H, **SEQ)],
    "average pooling": [layers.AveragePooling1D(3, strides=1), layers.GRU(H, **SEQ)],
    "cropping": [layers.Cropping1D((1, 2)), layers.GRU(H)],
    "cropping in front": [layers.Cropping1D((2, 0))],
    "norms": [layers.LayerNormalization(), layers.RMSNormalization(), layers.GRU(H)],
    "layer norm, bare": [layers.LayerNormalization(center=False, scale=False, epsilon=0.1)],
    "unit norm": [layers.UnitNormalization(), layers.GRU(H, **SEQ)],
    "prelu": [layers.PReLU(shared_axes=[1]), layers.PReLU(shared_axes=[1, 2])],
    "leaky": [layers.LeakyReLU(negative_slope=0.2), layers.Activation("leaky_relu")],
    "elu": [layers.ELU(alpha=0.5), layers.ELU()],
    "relu to a top": [layers.ReLU(max_value=0.7)],
    "relu with a slope": [layers.ReLU(negative_slope=0.1)],
    "relu with both": [layers.ReLU(max_value=0.5, negative_slope=0.1)],
    "a layer as activation": [layers.Dense(4, activation=layers.LeakyReLU(negative_slope=0.3))],
    "log softmax": [layers.GRU(H), layers.Dense(4, "log_softmax")],
    "each step, a layer": [layers.TimeDistributed(layers.LayerNormalization()), layers.GRU(H)],
    "each step, a model": [
        layers.TimeDistributed(
            keras.Sequential([layers.Dense(4, "tanh"), layers.BatchNormalization()])
        ),
        layers.GRU(H),
    ],
    "identity": [layers.Identity(), layers.GRU(H)],
    "after the last step": [layers.GRU(H), layers.LayerNormalization(), layers.Dense(2)],
}  # fmt: skip
WINDOWS: dict[str, list[Any]] = {
    "same": [layers.Conv1D(4, 3, padding="same"), layers.LSTM(H, **SEQ)],
    "same, even kernel": [layers.Conv1D(4, 4, padding="same", dilation_rate=2), layers.LSTM(H)],
    "same, strided": [layers.Conv1D(4, 3, padding="same", strides=2), layers.LSTM(H)],
    "same, pooled": [layers.MaxPooling1D(3, padding="same"), layers.LSTM(H)],
    "same, nothing to pad": [layers.AveragePooling1D(2, padding="same"), layers.LSTM(H)],
    "same, separable": [layers.SeparableConv1D(4, 3, padding="same")],
    "padded around": [layers.ZeroPadding1D((1, 2)), layers.Conv1D(3, 3, strides=2), layers.GRU(H)],
    "padded, not filled": [layers.ZeroPadding1D((1, 0)), layers.Conv1D(3, 4), layers.GRU(H)],
    "padded before a cell": [layers.ZeroPadding1D((2, 0)), layers.GRU(H)],
    "mean of all": [layers.Conv1D(4, 3), layers.GlobalAveragePooling1D(), layers.Dense(2)],
    "maximum of all": [layers.GRU(H, **SEQ), layers.GlobalMaxPooling1D(keepdims=True)],
    "flat": [
        layers.LSTM(H, **SEQ), layers.Flatten(), layers.Dropout(0.1), layers.ReLU(),
        layers.Dense(5, "relu"), layers.Dense(2, "softmax"),
    ],
    "flat by reshape": [layers.GRU(H, **SEQ), layers.Reshape((-1,)), layers.Dense(3)],
    "backwards": [layers.SimpleRNN(H, go_backwards=True, **SEQ)],
    "backwards, its last": [layers.LSTM(H, go_backwards=True)],
    "reshape that keeps steps": [layers.Reshape((12, I)), layers.GRU(H)],
}  # fmt: skip


@pytest.mark.parametrize("name", STREAMS)
def test_streams(name: str, tmp_path: Path) -> None:
    assert not agrees(made(*STREAMS[name]), tmp_path / "m.keras").model.looks_ahead


@pytest.mark.parametrize("inner", [
    [layers.Conv1D(4, 3, activation="relu", padding="same"), layers.MaxPooling1D(2),
     layers.Conv1D(5, 2, padding="causal"), layers.AveragePooling1D(3, strides=1),
     layers.BatchNormalization(), layers.Dense(3, "tanh"), layers.Flatten()],
    [layers.Conv1D(4, 2, strides=2, activation="gelu"), layers.Flatten()],
    [layers.ZeroPadding1D((1, 2)), layers.Conv1D(4, 4), layers.Cropping1D((1, 1)),
     layers.GlobalMaxPooling1D()],
    [layers.GlobalAveragePooling1D(keepdims=True), layers.Reshape((-1,))],
])  # fmt: skip
def test_convolution_within_each_step(inner: list[Any], tmp_path: Path) -> None:
    each = [layers.TimeDistributed(layer) for layer in inner]
    agrees(made(*each, layers.GRU(H), shape=(None, 9, I)), tmp_path / "each.keras")
    whole = layers.TimeDistributed(keras.Sequential(inner))
    agrees(made(whole, layers.GRU(H), shape=(None, 9, I)), tmp_path / "whole.keras")


@pytest.mark.parametrize("name", WINDOWS)
def test_windows(name: str, tmp_path: Path) -> None:
    source = agrees(made(*WINDOWS[name], shape=(12, I)), tmp_path / "m.keras")
    assert source.regime.window == 12


@pytest.mark.parametrize("name", [n for n in WINDOWS if not n.startswith(("flat", "reshape"))])
def test_windows_that_the_user_gives(name: str, tmp_path: Path) -> None:
    source = agrees(made(*WINDOWS[name]), tmp_path / "m.keras", window=12)
    assert source.regime.window is None


WITHOUT = ("same", "mean of all", "backwards", "padded around")


@pytest.mark.parametrize("name", WITHOUT)
def test_without_a_window_the_advice_is_to_give_one(name: str, tmp_path: Path) -> None:
    made(*WINDOWS[name]).save(tmp_path / "m.keras")
    with pytest.raises(UnsupportedError, match="give it windows with --mode tumbling --window N"):
        read(tmp_path / "m.keras", "keras", Options())


def window_input(*row: int) -> Any:
    return layers.Input((12, *(row or (I,))))


def residual(x: Any) -> Any:
    a = layers.Dense(I)(x)
    y = layers.Subtract()([layers.Average()([a, x, a]), layers.Multiply()([x, a])])
    y = layers.Minimum()([layers.Maximum()([y, a, x]), a])
    return keras.Model(x, [layers.GRU(H, **SEQ)(y), (y + x - a) * x])


def shared(x: Any) -> Any:
    other, dense, cell = window_input(), layers.Dense(H), layers.GRU(H)
    return keras.Model([x, other], layers.Concatenate()([cell(dense(x)), cell(dense(other))]))


def beside_the_sequence(x: Any) -> Any:
    vector, index = layers.Input((2,)), layers.Input((1,))
    known = layers.Flatten()(layers.Embedding(5, 3)(index))
    y = layers.Concatenate()([layers.LSTM(H)(x), vector, known])
    return keras.Model([x, vector, index], layers.Dense(2)(y))


def kernels_of_several_sizes(x: Any) -> Any:
    vector = layers.Input((2,))
    flat = layers.Dense(H)(layers.Flatten()(layers.Conv1D(2, 3)(x)))
    pooled = [layers.GlobalMaxPooling1D()(layers.Conv1D(3, k)(x)) for k in (2, 5)]
    return keras.Model([x, vector], layers.Concatenate()([flat, vector, *pooled]))


def inside(x: Any) -> Any:
    a = keras.Sequential([layers.Dense(I), layers.BatchNormalization()], name="a")
    z = layers.Input((None, I))
    deep = keras.Sequential([layers.Dense(I, name="dense")], name="deep")
    b = keras.Model(z, layers.Add()([deep(z), z]), name="b")
    y, h = layers.GRU(H, return_state=True, name="cell", **SEQ)(b(a(x)))
    return keras.Model(x, layers.Dense(2)(layers.Concatenate()([h, layers.LSTM(H)(y)])))


def residual_same(x: Any) -> Any:
    y = layers.Add()([layers.Conv1D(I, 3, padding="same")(x), x])
    return keras.Model(x, layers.Bidirectional(layers.LSTM(H))(y))


def both_ways_apart(x: Any) -> Any:
    return keras.Model(x, layers.Bidirectional(layers.GRU(H, **SEQ), merge_mode=None)(x))


def numbers_as_steps(x: Any) -> Any:
    numbers = layers.Input((12,))
    return keras.Model(numbers, layers.LSTM(H)(layers.Reshape((12, 1))(numbers)))


def indices(x: Any) -> Any:
    index = layers.Input((12,), dtype="int32")
    y = layers.Conv1D(4, 3, padding="same", activation="relu")(layers.Embedding(7, 4)(index))
    y = layers.LSTM(H)(layers.MaxPooling1D(2, padding="same")(y))
    return keras.Model(index, layers.Dense(1, "sigmoid")(layers.Dropout(0.5)(y)))


GRAPHS = [residual, shared, beside_the_sequence, kernels_of_several_sizes, inside, residual_same,
          both_ways_apart, numbers_as_steps, indices]  # fmt: skip


@pytest.mark.parametrize("make", GRAPHS)
@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_graphs(make: Any, ending: str, tmp_path: Path) -> None:
    if ending == "h5" and make is residual:
        return  # what Keras can't read itself: it drops an operation's second value
    agrees(make(window_input()), tmp_path / f"m.{ending}")


@pytest.mark.parametrize("stack", [
    [layers.Masking(-1.0), layers.BatchNormalization(), layers.Dense(4),
     layers.Bidirectional(layers.GRU(H, **SEQ)), layers.GRU(H, go_backwards=True, **SEQ)],
    [layers.Dropout(0.2), layers.Masking(-1.0), layers.LSTM(H, **SEQ), layers.LSTM(H)],
])  # fmt: skip
def test_masked_steps_are_as_if_they_had_not_come(stack: list[Any], tmp_path: Path) -> None:
    model = made(*stack)
    model.save(tmp_path / "m.keras")
    converted = read(tmp_path / "m.keras", "keras", Options(window=9)).model
    assert converted.mask == -1
    x = sample(converted, 9)
    x[[0, 3, 4, 8]] = -1
    x[5, :2] = -1  # some features alone mask nothing
    expected = np.asarray(model(x[None]))[0].reshape(-1, model.output_shape[-1])
    seen = [1, 2, 5, 6, 7]
    y = reference.run(converted, x[seen])
    if len(expected) == 9:
        expected = expected[seen] if len(stack) == 2 else expected[[8 - t for t in seen[::-1]]]
    np.testing.assert_allclose(y[-len(expected) :], expected, atol=1e-5)


def test_index_0_is_masked(tmp_path: Path) -> None:
    model = made(layers.Embedding(5, 4, mask_zero=True), layers.GRU(H), shape=(None,))
    model.save(tmp_path / "m.keras")
    converted = read(tmp_path / "m.keras", "keras", Options()).model
    x = np.array([3, 0, 1, 4, 0, 0], np.float32)
    y = reference.run(converted, x[x != 0][:, None])[-1:]
    assert converted.mask == 0
    np.testing.assert_allclose(y, np.asarray(model(x[None])), atol=1e-5)


@pytest.mark.filterwarnings("ignore:Layer 'conv' .of type Conv1D. was passed an input with a mask")
@pytest.mark.parametrize(("stack", "names"), [
    ([layers.Masking(), layers.Conv1D(2, 3, name="conv"), layers.GRU(H)], "Conv1D 'conv': mask: s"),
    ([layers.Dense(2), layers.Masking(name="late"), layers.GRU(H)], "Masking 'late': mask: it mas"),
    ([layers.Masking(1.0), layers.Masking(2.0, name="more")], "Masking 'more': mask: another"),
    ([layers.GRU(H, **SEQ), layers.GRU(H, stateful=True, name="keeps")],
     "GRU 'keeps': stateful=True: keeps its state from"),
    ([layers.PReLU(name="own")], "PReLU 'own': alpha: each step of the window has"),
    ([layers.Flatten(name="flat"), layers.LayerNormalization(name="norm"), layers.Dense(2)],
     "LayerNormalization 'norm': input: it reads 12 steps side by side"),
])  # fmt: skip
def test_what_is_refused(stack: list[Any], names: str, tmp_path: Path) -> None:
    model = keras.Sequential([layers.Input((12, I), batch_size=1), *stack])
    randomized(model).save(tmp_path / "m.keras")
    with pytest.raises(UnsupportedError) as caught:
        read(tmp_path / "m.keras", detect(tmp_path / "m.keras"), Options())
    assert str(caught.value).startswith(names)


def test_a_model_whose_layers_all_keep_their_states_is_made_for_no_window(tmp_path: Path) -> None:
    stack = [layers.LSTM(H, stateful=True, **SEQ), layers.GRU(H, stateful=True)]
    model = keras.Sequential([layers.Input((5, I), batch_size=1), *stack])
    model.save(tmp_path / "m.keras")
    assert read(tmp_path / "m.keras", "keras", Options()).regime.window is None


def test_a_declared_window_is_the_one(tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    made(layers.Bidirectional(layers.GRU(H)), shape=(12, I)).save(path)
    assert read(path, "keras", Options(window=12)).regime.window == 12
    with pytest.raises(UnsupportedError, match="windows of 9: the model's input declares 12 steps"):
        read(path, "keras", Options(window=9))
    made(layers.GRU(H), shape=(12, I)).save(path)
    assert read(path, "keras", Options(window=9)).regime.window == 12


@pytest.mark.parametrize(("shape", "stack", "says"), [
    ((None, 1 << 21), [layers.LeakyReLU()], "expected sizes up to"),
    ((1 << 20, 64), [layers.Cropping1D((1 << 19, 1))], "too many to cut"),
    ((None, 4, 2), [layers.TimeDistributed(layers.ZeroPadding1D(1 << 30))], "makes 2147483652 pos"),
])  # fmt: skip
def test_nothing_huge_is_made(
    shape: tuple[int, ...], stack: list[Any], says: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.keras"
    keras.Sequential([layers.Input(shape), *stack]).save(path)
    with pytest.raises(EdgeRnnError, match=says):
        read(path, "keras", Options())

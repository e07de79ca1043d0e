"""What is said of arrays: both directions, lines, templates, the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edge_rnn import Session, reference
from edge_rnn.errors import ModelError, UnsupportedError
from edge_rnn.graph import Window
from edge_rnn_converters import convert
from edge_rnn_converters.cli import convert as command
from edge_rnn_converters.source import UndescribedError
from tests.converters.test_weights import FC, LINEAR, TORCH, cell, file, model, weights

DIRECTIONS: dict[str, dict[str, Any]] = {
    "RNN": {"nonlinearity": "relu"},
    "LSTM": {"num_layers": 2, "proj_size": 3},
    "GRU": {"num_layers": 3, "bias": False},
}


@pytest.mark.parametrize("kind", DIRECTIONS)
def test_both_directions_of_a_layer_in_windows(kind: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = getattr(torch.nn, kind)(5, 6, bidirectional=True, batch_first=True, **DIRECTIONS[kind])
    line = f"{kind.lower()} activation=relu" if kind == "RNN" else kind.lower()
    arrays = {f"net.{name}": a.detach().numpy() for name, a in net.state_dict().items()}
    found = convert(file(arrays, tmp_path), "float32", network=line, mode=Window(8, 3),
                    check="require")  # fmt: skip
    x = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    for window in (x[i : i + 8] for i in range(0, 13, 3)):
        with torch.inference_mode():
            y = net(torch.from_numpy(window[None]))[0][0].numpy()
        np.testing.assert_allclose(reference.run(found, window), y, atol=1e-5)


def test_arrays_of_both_directions_by_names_of_ones_own(tmp_path: Path) -> None:
    arrays = weights(a=(18, 5), b=(18, 6), c=(18, 5), d=(18, 6))
    names = 'weight_ih = "a", weight_hh = "b", weight_ih_reverse = "c", weight_hh_reverse = "d"'
    toml = f'[[layer]]\ntype = "gru"\nweights = {{ {names} }}\n'
    own = {"a": "weight_ih_l0", "b": "weight_hh_l0", "c": "weight_ih_l0_reverse",
           "d": "weight_hh_l0_reverse"}  # fmt: skip
    found, told = (tmp_path / part for part in ("found", "told"))
    found.mkdir(), told.mkdir()
    (told / "net.toml").write_text(toml)
    path, mode = file({own[name]: a for name, a in arrays.items()}, found), Window(4, 4)
    wanted = convert(path, "float32", mode=mode)  # the arrays alone tell it
    model = convert(file(arrays, told), "float32", description=told / "net.toml", mode=mode)
    x = np.random.default_rng(0).normal(size=(4, 5))
    np.testing.assert_array_equal(reference.run(model, x), reference.run(wanted, x))


def test_a_layer_of_both_directions_needs_a_window(tmp_path: Path) -> None:
    arrays = cell("rnn", 3, 5, 6) | cell("rnn", 3, 5, 6, end="_l0_reverse")
    with pytest.raises(UnsupportedError, match=r"looks ahead|--window"):
        convert(file(arrays, tmp_path))


def test_a_line_names_arrays_where_several_fit(tmp_path: Path) -> None:
    """Their order in a file is that of their names in some formats: it isn't believed."""
    arrays = cell("b", 3, 5, 6) | cell("a", 3, 6, 6, 1) | FC
    toml = "".join(f'[[layer]]\ntype = "gru"\nweights = "{n}"\n' for n in "ba")
    wanted = model(arrays, toml + LINEAR + 'activation = "relu"\n', tmp_path)
    path = file(arrays, tmp_path)
    line = "gru weights=b, gru weights=a, linear activation=relu"
    found = convert(path, "float32", network=line, check="skip")
    x = np.random.default_rng(0).normal(size=(20, 5))
    np.testing.assert_array_equal(reference.run(found, x), reference.run(wanted, x))
    says = r"2 layers have arrays that look like gru; say which, as in 'gru weights=NAME': a \(g"
    with pytest.raises(ModelError, match=says):
        convert(path, network="gru, gru, linear")
    with pytest.raises(ModelError, match="0 layers have arrays that look like lstm"):
        convert(path, network="lstm, linear")


def test_what_arrays_cannot_tell_is_asked_with_a_template(tmp_path: Path) -> None:
    """The template, completed, is a description."""
    arrays = cell("rnn", 1, 5, 6) | FC | weights(extra=(3, 2))
    np.savez(tmp_path / "w.npz", **arrays)  # in this order
    with pytest.raises(UndescribedError, match="their order and the activations") as caught:
        convert(tmp_path / "w.npz")
    template = caught.value.template
    assert 'ignore = ["extra"]' in template and "#   fc.weight (3, 6)\n" in template
    found = model(arrays, template.replace('"tanh"', '"relu"'), tmp_path)
    assert [n.OP for n in found.nodes] == ["rnn", "dense"]


def test_the_command_writes_and_takes_a_description(tmp_path: Path) -> None:
    path, net, out = (tmp_path / name for name in ("w.npz", "net.toml", "m.ernn"))
    np.savez(path, **TORCH["lstm"][0])
    asked = CliRunner().invoke(command, [str(path), "-o", str(out)])
    assert asked.exit_code == 1 and not out.exists()
    assert 'type = "linear"' in asked.stderr and "--describe" in asked.stderr
    written = CliRunner().invoke(command, [str(path), "--describe", str(net)])
    assert written.exit_code == 0 and net.exists()
    again = CliRunner().invoke(command, [str(path), "--describe", str(net)])
    assert again.exit_code == 1 and "exists" in again.stderr
    line = [str(path), "-o", str(out), "--description", str(net), "--check", "skip"]
    assert CliRunner().invoke(command, line).exit_code == 0 and out.exists()
    missing = CliRunner().invoke(command, [str(path)])
    assert missing.exit_code == 2 and "Missing option" in missing.stderr


def test_a_file_with_a_network_needs_no_description(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"\x08\x07")
    net = tmp_path / "net.toml"
    result = CliRunner().invoke(command, [str(tmp_path / "m.onnx"), "--describe", str(net)])
    assert result.exit_code == 1 and "holds its network itself" in result.stderr
    assert not net.exists()


class Net:
    """A user's network, written out in PyTorch."""

    def __init__(self) -> None:
        from torch import nn

        self.lstm, self.fc = nn.LSTM(5, 6, 2, batch_first=True), nn.Linear(6, 3)
        self.norm = nn.LayerNorm(3)
        self.modules = nn.ModuleDict({"lstm": self.lstm, "fc": self.fc, "norm": self.norm})

    def forward(self, x: Any) -> Any:
        import torch

        return torch.relu(self.norm(self.fc(self.lstm(x)[0]))).softmax(-1)


def test_a_network_of_ones_own_from_its_state_dict(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = Net()
    torch.save({"state_dict": net.modules.state_dict()}, tmp_path / "net.ckpt")
    line = "lstm, linear, layer_norm, relu, softmax"
    found = convert(tmp_path / "net.ckpt", "float32", network=line, check="require")
    x = torch.randn(1, 40, 5)
    with torch.inference_mode():
        y = net.forward(x)[0].numpy()
    np.testing.assert_allclose(Session(found).run("s", x[0].numpy()), y, atol=1e-6)

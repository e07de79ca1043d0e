"""Steps written with primitive operators: which cells they are, whatever way they are written."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_rnn.errors import UnsupportedError
from edge_rnn.graph import CoupledLstm, Gru, Lstm, MinGru, Rnn
from edge_rnn_converters.recurrence.recognise import Found, recognise
from tests.converters.step_models import Writer
from tests.effort import examples

I, H = 3, 4


def some(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def only(k: Writer, after: dict[str, str], output: str = "") -> Found:
    found = recognise(k.step(after, *([output] if output else [])))
    assert len(found.cells) == 1
    return found.cells[0]


def rows(a: np.ndarray, order: str, wanted: str) -> np.ndarray:
    blocks = dict(zip(order, np.split(a, len(order)), strict=True))
    return np.concatenate([blocks[gate] for gate in wanted])


@examples(30)
@given(
    order=st.permutations("ifgo").map("".join),
    joined=st.booleans(),
    looks=st.booleans(),
    gates_apart=st.booleans(),
)
def test_an_lstm_in_any_order_and_form(
    order: str, joined: bool, looks: bool, gates_apart: bool
) -> None:
    k = Writer(I, {"c": H, "h": H})
    w, u, b, p = some(1, 4 * H, I), some(2, 4 * H, H), some(3, 4 * H), some(4, 3, H)
    both = np.concatenate([w, u], axis=1)
    if gates_apart:
        xh = k.op("Concat", "x", "h", axis=1)
        parts = [k.add(k.product(xh, m), k.constant(v))
                 for m, v in zip(np.split(both, 4), np.split(b, 4), strict=True)]  # fmt: skip
    elif joined:
        xh = k.op("Concat", "x", "h", axis=1)
        parts = list(k.parts(k.add(k.product(xh, both), k.constant(b)), 4))
    else:
        parts = list(k.parts(k.add(k.product("h", u), k.constant(b), k.product("x", w)), 4))
    v = dict(zip(order, parts, strict=True))
    look = dict(zip("ifo", p, strict=True))
    if looks:
        v |= {g: k.add(v[g], k.mul("c", k.constant(look[g]))) for g in "if"}
    c = k.add(k.mul(k.tanh(v["g"]), k.sigmoid(v["i"])), k.mul(k.sigmoid(v["f"]), "c"))
    if looks:
        v["o"] = k.add(v["o"], k.mul(c, k.constant(look["o"])))
    h = k.mul(k.tanh(c), k.sigmoid(v["o"]))
    found = only(k, {"h": h, "c": c}, h)
    node = found.node
    assert isinstance(node, Lstm)
    assert found.states == ("h", "c")
    assert np.array_equal(node.w.data, rows(w, order, "ifgo"))
    assert np.array_equal(node.u.data, rows(u, order, "ifgo"))
    assert np.array_equal(node.b, rows(b, order, "ifgo"))
    assert (node.peephole is None) != looks
    if node.peephole is not None:
        assert np.array_equal(node.peephole, p.reshape(-1))


def test_a_forget_bias_and_a_projection_are_the_cells() -> None:
    k = Writer(I, {"c": H, "h": 2})
    w, u, p = some(1, 4 * H, I), some(2, 4 * H, 2), some(3, 2, H)
    i, f, g, o = k.parts(k.add(k.product("x", w), k.product("h", u)), 4)
    forget = k.sigmoid(k.add(f, k.constant(1.0)))
    c = k.add(k.mul(forget, "c"), k.mul(k.sigmoid(i), k.tanh(g)))
    h = k.product(k.mul(k.sigmoid(o), k.tanh(c)), p)
    node = only(k, {"h": h, "c": c}).node
    assert isinstance(node, Lstm)
    assert node.projection is not None
    assert np.array_equal(node.projection.data, p)
    assert np.array_equal(node.b, np.repeat([0, 1, 0, 0], H).astype(np.float32))


@pytest.mark.parametrize("keeps", ["i", "f"])
def test_coupled_gates(keeps: str) -> None:
    """f = 1 - i, and TFLite's i = 1 - f, whose f with its signs changed is our i."""
    k = Writer(I, {"c": H, "h": H})
    w, u, b = some(1, 3 * H, I), some(2, 3 * H, H), some(3, 3 * H)
    a, g, o = k.parts(k.add(k.product("x", w), k.product("h", u), k.constant(b)), 3)
    gate, new = k.sigmoid(a), k.tanh(g)
    i, f = (gate, k.less(gate)) if keeps == "i" else (k.less(gate), gate)
    c = k.add(k.mul(f, "c"), k.mul(i, new))
    h = k.mul(k.sigmoid(o), k.tanh(c))
    node = only(k, {"h": h, "c": c}).node
    assert isinstance(node, CoupledLstm)
    sign = np.repeat([1 if keeps == "i" else -1, 1, 1], H)
    assert np.array_equal(node.w.data, w * sign[:, None])
    assert np.array_equal(node.b, b * sign)


def gru(k: Writer, reset: str, form: str, candidate: str) -> str:
    w, u, b, rb = some(1, 3 * H, I), some(2, 3 * H, H), some(3, 3 * H), some(4, 3 * H)
    x = k.parts(k.add(k.product("x", w), k.constant(b)), 3)
    if reset == "after":
        r_h = k.parts(k.add(k.product("h", u), k.constant(rb)), 3)
        z, r = (k.sigmoid(k.add(x[j], r_h[j])) for j in (0, 1))
        inner = k.add(x[2], k.mul(r, r_h[2]))
    else:
        r_h = k.parts(k.product("h", u[: 2 * H]), 2)
        z, r = (k.sigmoid(k.add(x[j], r_h[j])) for j in (0, 1))
        inner = k.add(x[2], k.product(k.mul(r, "h"), u[2 * H :]))
    n = inner if candidate == "Linear" else k.op(candidate, inner)
    match form:
        case "z h + (1 - z) n":
            return k.add(k.mul(z, "h"), k.mul(k.less(z), n))
        case "(1 - z) h + z n":
            return k.add(k.mul(k.less(z), "h"), k.mul(z, n))
        case "n + z (h - n)":
            return k.add(n, k.mul(z, k.op("Sub", "h", n)))
    return k.add("h", k.mul(z, k.op("Sub", n, "h")))


@pytest.mark.parametrize("reset", ["after", "before"])
@pytest.mark.parametrize("candidate", ["Tanh", "Relu", "Linear"])
@pytest.mark.parametrize(
    ("form", "sign"),
    [("z h + (1 - z) n", 1), ("(1 - z) h + z n", -1), ("n + z (h - n)", 1), ("h + z (n - h)", -1)],
)
def test_a_gru_in_every_form(reset: str, candidate: str, form: str, sign: int) -> None:
    """Where z is the new state's share, z with its signs changed is ours."""
    k = Writer(I, {"h": H})
    h = gru(k, reset, form, candidate)
    node = only(k, {"h": h}, h).node
    assert isinstance(node, Gru)
    assert (node.reset, node.candidate) == (reset, candidate.lower())
    w = some(1, 3 * H, I)
    assert np.array_equal(node.w.data[:H], sign * w[:H])
    assert np.array_equal(node.w.data[H:], w[H:])


def test_a_gru_without_weights_of_its_state_is_a_min_gru() -> None:
    k = Writer(I, {"h": H})
    z, n = k.parts(k.product("x", some(1, 2 * H, I)), 2)
    z = k.sigmoid(z)
    node = only(k, {"h": k.add(k.mul(k.less(z), "h"), k.mul(z, n))}).node
    assert isinstance(node, MinGru)


@pytest.mark.parametrize("act", ["Tanh", "Relu", "Linear"])
def test_a_plain_rnn(act: str) -> None:
    k = Writer(I, {"h": H})
    total = k.add(k.product("x", some(1, H, I)), k.product("h", some(2, H, H)))
    node = only(k, {"h": total if act == "Linear" else k.op(act, total)}).node
    assert isinstance(node, Rnn)
    assert node.act == act.lower()


def test_cells_in_one_step_read_each_other() -> None:
    k = Writer(I, {"b": H, "a": H})
    first = k.tanh(k.add(k.product("x", some(1, H, I)), k.product("a", some(2, H, H))))
    second = k.tanh(k.add(k.product(first, some(3, H, H)), k.product("b", some(4, H, H))))
    found = recognise(k.step({"a": first, "b": second}, second))
    assert [(c.node.input, c.states) for c in found.cells] == [("x", ("a",)), ("a", ("b",))]
    assert found.outputs == ("b",)


def refused(k: Writer, after: dict[str, str], *outputs: str) -> str:
    with pytest.raises(UnsupportedError) as caught:
        recognise(k.step(after, *outputs))
    return str(caught.value)


def test_what_is_no_cell_is_refused_by_its_operator() -> None:
    k = Writer(I, {"h": H})
    total = k.add(k.product("x", some(1, H, I)), k.product("h", some(2, H, H)))
    assert "Sin 'the Sin': operator: is in the way" in refused(k, {"h": k.op("Sin", total)})
    k = Writer(H, {"h": H})
    text = refused(k, {"h": k.mul(k.product("x", some(1, H, H)), k.product("h", some(2, H, H)))})
    assert "it multiplies one matrix product by another" in text
    k = Writer(I, {"h": H})
    h = k.tanh(k.add(k.product("x", some(1, H, I)), k.product("h", some(2, H, H))))
    leaky = k.add(k.mul(k.constant(0.9), "h"), k.mul(k.constant(0.1), h))
    assert "states 'h': no cell has these equations" in refused(k, {"h": leaky})
    text = refused(k, {"h": h}, k.sigmoid(h))
    assert "Sigmoid 'the Sigmoid': output: is inside the loop, after its cells" in text


def test_a_gate_that_is_a_little_off_is_no_gru() -> None:
    k = Writer(I, {"h": H})
    z, n = k.parts(k.add(k.product("x", some(1, 2 * H, I)), k.product("h", some(2, 2 * H, H))), 2)
    z, n = k.sigmoid(z), k.tanh(n)
    rest = k.op("Sub", k.constant(1.0001), z)
    assert "no cell has these equations" in refused(k, {"h": k.add(k.mul(z, "h"), k.mul(rest, n))})


def test_a_match_is_believed_only_when_it_computes_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from edge_rnn_converters.recurrence import recognise as module

    def wrong(cell: object) -> tuple[Rnn, tuple[str, ...]]:
        node, names = real(cell)  # type: ignore[arg-type]
        return replace(node, b=node.b + 1e-6), names  # type: ignore[call-arg, attr-defined]

    real = module.match
    monkeypatch.setattr(module, "match", wrong)
    k = Writer(I, {"h": H})
    h = k.tanh(k.add(k.product("x", some(1, H, I)), k.product("h", some(2, H, H))))
    assert "beside the rnn cell that its operators look like" in refused(k, {"h": h})


def test_sums_that_grow_without_end_are_refused_soon() -> None:
    k = Writer(H, {"h": H})
    v = k.add("x", "h")
    for _ in range(40):
        v = k.add(k.mul(k.sigmoid(v), k.tanh(v)), v)
    assert "than any cell does" in refused(k, {"h": v})

"""A program under construction: instructions, arenas of weights, places in scratch and state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_rnn.activations import ACTS, TUNED, steps, tuned
from edge_rnn.graph import F32, GROUP, Matrix, Schedule
from edge_rnn.kernels import (
    ADD,
    BLOCK,
    EACH,
    FLIP,
    FROM_SCRATCH,
    FROM_STATE,
    FROM_WINDOWS,
    LENGTHS,
    LEVEL,
    LINE,
    PARTIALS,
    Format,
    Op,
    pack,
    pack_nibbles,
)

PAD = 16
"""Float32 words that a state vector and a gate are filled up to: the widest vector there is."""


def round_up(n: int, unit: int) -> int:
    """n filled up to whole units."""
    return -(-n // unit) * unit


def pad_gates(a: NDArray[Any], H: int, by_unit: bool = False) -> NDArray[Any]:
    """Rows (k H, ...) with every gate's H rows filled up with zeros to whole vectors; or, by unit,
    a register of each gate's rows, then the next of each."""
    gates = a.reshape(-1, H, *a.shape[1:])
    full = np.zeros((len(gates), round_up(H, PAD), *a.shape[1:]), a.dtype)
    full[:, :H] = gates
    if by_unit:
        full = full.reshape(len(gates), -1, LEVEL.lanes, *a.shape[1:]).swapaxes(0, 1)
    return full.reshape(-1, *a.shape[1:])


_FORMATS = {
    ("float16", "float32"): Format.FLOAT16,
    ("float32", "float32"): Format.FLOAT32,
    ("int8", "float32"): Format.INT8,
    ("int8", "int8"): Format.INT8_INT8,
    ("int8", "int16"): Format.INT8_INT16,
    ("int4", "int8"): Format.INT4_INT8,
    ("int4", "int16"): Format.INT4_INT16,
}
_INTEGER = {f: a for (_, a), f in _FORMATS.items() if a != "float32"}
_FOUR_BIT = (Format.INT4_INT8, Format.INT4_INT16)


def _integer_words(n: int, format: Format) -> int:
    """Words that n numbers take as the format's integers, their unit in front; 0 if as floats."""
    if format not in _INTEGER:
        return 0
    each = GROUP if format in _FOUR_BIT else EACH
    groups = -(-n // each) * (2 if _INTEGER[format] == "int16" else 1)
    words = groups * each // 4 + (groups if format in _FOUR_BIT else 0)
    return round_up(PAD + words + PAD, PAD)


@dataclass(frozen=True, slots=True)
class Vector:
    """Where a product's operand lies: `width` numbers at `at` in the scratch or the state, of a
    size that `bound` limits (0 if unknown)."""

    at: int
    width: int
    bound: float = 0.0
    in_state: bool = False


@dataclass(frozen=True, slots=True)
class Packed:
    """A matrix as products read it: operands of MATVEC, and how many `columns` it has."""

    rows: int
    K: int
    columns: int
    format: Format
    weights: int
    scale: int
    bias: int
    start: int

    def operands(self, src: int, dst: int, unit: int, source: int) -> tuple[int, ...]:
        """Those of a MATVEC that reads at src and writes at dst."""
        places = (self.weights, self.scale, self.bias, unit, self.start, source)
        return self.rows, self.K, src, dst, self.format, *places


_MOST_WINDOWS, _WINDOW_WORDS = 32, 1 << 13
"""Windows that share a load of weights, unless their rooms get longer than this many words."""


@dataclass(slots=True)
class Assembler:
    """Arenas and a row's scratch and state under construction, all in whole vectors.

    `values` are the places of the graph's values, by name; `now` is when the instruction to come
    runs. A place that a product reads is not written again in the same step: `integers` keeps
    where its integers are.
    """

    widths: dict[str, int]
    schedules: dict[str, Schedule]
    now: Schedule = Schedule()
    code: list[int] = field(default_factory=list)
    int8s: list[NDArray[np.int8]] = field(default_factory=list)
    halves: list[NDArray[np.int16]] = field(default_factory=list)
    floats: list[F32] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=lambda: {"int8s": 0, "halves": 0, "floats": 0})
    scratch: int = 0
    windows: int = 0
    state: int = 0
    words: list[NDArray[np.int64]] = field(default_factory=list)
    values: dict[str, int] = field(default_factory=dict)
    integers: dict[tuple[int, bool, Format], tuple[int, int]] = field(default_factory=dict)

    def emit(self, op: Op, *operands: int) -> None:
        """Append an instruction."""
        if len(operands) != LENGTHS[op]:  # the runner would read past them
            raise AssertionError(f"{op.name} has {LENGTHS[op]} operands, got {len(operands)}")
        self.code += [op, *operands]

    def at(self, schedule: Schedule) -> None:
        """What follows runs at these steps."""
        if schedule != self.now:
            self.emit(Op.SCHEDULE, *schedule)
            self.now = schedule

    def scratch_room(self, n: int) -> int:
        """Room for n words of a row's scratch -> where it begins."""
        start = self.scratch
        self.scratch += round_up(n, BLOCK)
        return start

    def state_room(self, n: int) -> int:
        """Room for n words of a stream's state -> where it begins."""
        start = self.state
        self.words.append(np.arange(start, start + n))
        self.state += round_up(n, PAD)
        return start

    def put(self, arena: str, a: NDArray[Any], unit: int = 1) -> int:
        """Append a to an arena, zeros filling it up to whole units and whole lines of the cache
        -> its offset."""
        flat = np.zeros(round_up(a.size, max(unit, LINE // a.itemsize)), a.dtype)
        flat[: a.size] = a.reshape(-1)
        getattr(self, arena).append(flat)
        self.sizes[arena] += flat.size
        return self.sizes[arena] - flat.size

    def matvec(
        self, w: Matrix, H: int, x: Vector, dst: int, bias: F32 | None, activations: str
    ) -> None:
        """dst = w x + bias, or dst += w x without a bias; rows come in gates of H."""
        self.emit(Op.MATVEC, *self.product(w, H, x, dst, bias, activations))

    def product(
        self, w: Matrix, H: int, x: Vector, dst: int, bias: F32 | None, activations: str,
        by_unit: bool = False,
    ) -> tuple[int, ...]:  # fmt: skip
        """The operands of `matvec`, with sums by gate or, by unit, a register of each gate."""
        packed = self._packed(w, H, bias, activations, by_unit)
        if packed.format in _INTEGER:
            src, unit = self._quantized(x, packed.format)
            return packed.operands(src, dst, unit, FROM_SCRATCH)
        return packed.operands(x.at, dst, 0, FROM_STATE if x.in_state else FROM_SCRATCH)

    def convolve(
        self, w: Matrix, x: Vector, step: int, count: int, dst: int, bias: F32, activations: str
    ) -> None:
        """dst = w x_k + bias side by side, x_k the `count` windows that begin `step` words apart.

        Windows are to the kernels what other streams' rows are: many share a load of weights.
        """
        N = len(w.data)
        packed = self._packed(w, N, bias, activations)
        integers = _integer_words(packed.columns, packed.format)
        room = integers + packed.rows
        most = max(1, min(count, _MOST_WINDOWS, _WINDOW_WORDS // room))
        self.windows = max(self.windows, most)
        unit = self.scratch_room(most * room)
        sums, fixed = unit + integers, self.put("floats", np.array([x.bound], np.float32))
        for first in range(0, count, most):
            src, n = x.at + first * step, min(most, count - first)
            self.emit(Op.WINDOWS, n, step, room)
            if integers:
                quantized = (unit + PAD, unit, fixed, FROM_WINDOWS, packed.format)
                self.emit(Op.QUANTIZE, packed.columns, src, *quantized)
                src = unit + PAD
            self.emit(Op.MATVEC, *packed.operands(src, sums, unit, FROM_WINDOWS))
            self.emit(Op.COLLECT, N, sums, dst + first * N, room, n)

    def _packed(
        self, w: Matrix, H: int, bias: F32 | None, activations: str, by_unit: bool = False
    ) -> Packed:
        data = pad_gates(w.data, H, by_unit)
        kind = "int4" if w.four_bit else str(data.dtype)
        format = _FORMATS[kind, activations]
        K, weights, start = self._weights(w, data, format, H)
        scale = -1
        if w.scale is not None and not w.four_bit:
            scale = self.put("floats", pad_gates(w.scale, H, by_unit), BLOCK)
        base = ADD if bias is None else self.put("floats", pad_gates(bias, H, by_unit), BLOCK)
        rows = round_up(len(data), BLOCK)
        return Packed(rows, K, w.data.shape[1], format, weights, scale, base, start)

    def _weights(
        self, w: Matrix, data: NDArray[Any], format: Format, H: int
    ) -> tuple[int, int, int]:
        """Pack the weights -> (K in the format's groups, where they lie, operand `start`)."""
        columns = data.shape[1]
        if format == Format.FLOAT32:
            return columns, self.put("floats", pack(data.astype(np.float32))), 0
        if format == Format.FLOAT16:
            return columns, self.put("halves", pack(data).view(np.int16)), 0
        if format == Format.INT8:
            return columns, self.put("int8s", pack(data)), 0
        if format in _FOUR_BIT:
            assert w.scale is not None  # noqa: S101 - a valid matrix
            scales = self.put("floats", pack(pad_gates(w.scale, H)))
            return -(-columns // GROUP), self.put("int8s", pack_nibbles(data)), scales
        start = 0
        if FLIP:
            sums = (FLIP * data.sum(axis=1, dtype=np.int64)).astype(np.int32)
            start = self.put("floats", sums.view(np.float32), BLOCK)
        data = np.pad(data, ((0, 0), (0, -columns % EACH)))
        return data.shape[1] // 4, self.put("int8s", pack(data, 4)), start

    def _quantized(self, x: Vector, format: Format) -> tuple[int, int]:
        """Have x made integers -> (where they begin, where their unit stands), both in scratch."""
        key = (x.at, x.in_state, format)
        if key in self.integers:
            return self.integers[key]
        unit = self.scratch_room(_integer_words(x.width, format))
        fixed = self.put("floats", np.array([x.bound], np.float32))
        place = FROM_STATE if x.in_state else FROM_SCRATCH
        self.emit(Op.QUANTIZE, x.width, x.at, unit + PAD, unit, fixed, place, format)
        self.integers[key] = unit + PAD, unit
        return self.integers[key]

    def depthwise(self, w: Matrix, b: F32, src: int, dst: int) -> None:
        """dst = sum_j w_j src_j + b, feature by feature; w (features, taps), src taps of them."""
        features, taps = w.data.shape
        full = np.zeros((taps, round_up(features, PAD)), w.data.dtype)
        full[:, :features] = w.data.T
        if w.scale is None:
            packed = (0, self.put("floats", full.astype(np.float32)), 0)
        else:
            packed = (1, self.put("int8s", full), self.put("floats", w.scale))
        start = self.put("floats", b)
        self.emit(Op.DEPTHWISE, full.shape[1], src, dst, *packed, start, features, taps)

    def activate(self, act: str, P: int, place: int, src: int | None = None) -> None:
        """Activate P words of scratch in place, or those at src."""
        src = place if src is None else src
        for name, numbers in steps(act):
            number, at = ACTS.index(name) if not numbers else len(ACTS) + list(TUNED).index(name), 0
            if numbers:
                at = self.put("floats", np.array([*numbers, 0], np.float32))
            self.emit(Op.ACTIVATE, P, src, place, number, at)
            src = place

    def fused(self, act: str, P: int, place: int) -> int:
        """The number of an activation for an instruction that activates P words itself. One that
        is not among ACTS is done here, and the instruction has nothing left to do."""
        if act in ACTS:
            return ACTS.index(act)
        self.activate(act, P, place)
        return ACTS.index("linear")

    def clip(self, size: F32, P: int, place: int) -> None:
        """Hold P words of scratch inside [-size, size], size (1,)."""
        self.activate(tuned("clip", -size[0], size[0]), P, place)

    def standardise(self, n: int, src: int, dst: int, epsilon: float, runs: int = 1) -> None:
        """dst = (src - mean) / sqrt(var + epsilon) over runs of n, each in whole vectors."""
        eps = self.put("floats", np.array([epsilon], np.float32))
        sums, P = self.scratch_room(PARTIALS), round_up(n, PAD)
        self.emit(Op.STANDARDISE, n, src, dst, sums, eps, P, runs)

    def affine(self, gain: F32, n: int, src: int, dst: int, bias: F32 | None) -> None:
        """dst = gain src + bias, or dst += gain src without a bias, in runs of n."""
        padded = pad_gates(gain, n)
        shift = ADD if bias is None else self.put("floats", pad_gates(bias, n))
        self.emit(Op.AFFINE, len(padded), src, dst, self.put("floats", padded), shift)

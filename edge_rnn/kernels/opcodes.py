"""The program's instructions. Each is an opcode and its operands, int64, in one flat array.

Spaces: `s` scratch float32, `h` the stream's state float32, `p` parameters float32,
`q` int8 weights. An operand `x: s` is an offset in the row's scratch.
"""

from enum import IntEnum


class Op(IntEnum):
    """Operands in brackets; n, N, K are lengths, P a length padded to whole vectors."""

    END = 0  # []
    LOAD = 1  # [n, column of x, dst: s]
    STORE = 2  # [n, src: s, column of y]
    COPY_STATE = 3  # [n, src: h, dst: s]
    MATVEC = 4  # [N, K, src: s, dst: s, int8?, w: q or p, scale: p, bias: p or ADD]
    MATVEC_STATE = 5  # the same with src: h
    ACTIVATE = 6  # [P, src: s, dst: s, act]
    SOFTMAX = 7  # [n, src: s, dst: s, sums: s]
    SCALE = 8  # [n, src: s, dst: s, offset: p, scale: p, shift: p]
    EMBED = 9  # [D, src: s, dst: s, int8?, table: q or p, scale: p]
    RNN = 10  # [P, g: s, h: h, act]
    LSTM = 11  # [P, g: s, h: h, c: h, gate, cell, hidden]
    GRU_AFTER = 12  # [P, g: s, u: s, h: h, gate, candidate]
    GRU_RESET = 13  # [P, g: s, h: h, rh: s, gate]
    GRU_BLEND = 14  # [P, g: s, h: h, candidate]
    KEEP = 15  # [n, src: s, dst: h]
    LSTM_CELL = 16  # [P, g: s, c: h, m: s, coupled?]
    MULTIPLY = 17  # [P, src: s, dst: s]
    MIN_GRU = 18  # [P, g: s, h: h]
    LRU = 19  # [P, b: s, re: h, im: h, lambda_re: p, lambda_im: p]
    LOG_SOFTMAX = 20  # [n, src: s, dst: s, sums: s]
    STANDARDISE = 21  # [n, src: s, dst: s, sums: s, epsilon: p, P, runs]
    RMS = 22  # [n, src: s, dst: s, sums: s, epsilon: p]
    L2 = 23  # [n, src: s, dst: s, sums: s, epsilon: p]
    AFFINE = 24  # [P, src: s, dst: s, gain: p, bias: p or ADD]
    PRELU = 25  # [P, src: s, dst: s, slope: p]


LENGTHS = {
    Op.END: 0,
    Op.LOAD: 3,
    Op.STORE: 3,
    Op.COPY_STATE: 3,
    Op.MATVEC: 8,
    Op.MATVEC_STATE: 8,
    Op.ACTIVATE: 4,
    Op.SOFTMAX: 4,
    Op.SCALE: 6,
    Op.EMBED: 6,
    Op.RNN: 4,
    Op.LSTM: 7,
    Op.GRU_AFTER: 6,
    Op.GRU_RESET: 5,
    Op.GRU_BLEND: 4,
    Op.KEEP: 3,
    Op.LSTM_CELL: 5,
    Op.MULTIPLY: 3,
    Op.MIN_GRU: 3,
    Op.LRU: 6,
    Op.LOG_SOFTMAX: 4,
    Op.STANDARDISE: 7,
    Op.RMS: 5,
    Op.L2: 5,
    Op.AFFINE: 5,
    Op.PRELU: 4,
}
"""How many operands follow each opcode."""

ADD = -1
"""As a MATVEC's or AFFINE's bias: add to what stands in dst instead of starting from a bias."""

"""The program's instructions. Each is an opcode and its operands, int64, in one flat array.

Spaces: `s` scratch float32, `h` the stream's state float32, `p` parameters float32,
`q` int8 weights. An operand `x: s` is an offset in the row's scratch, `from` says whether a source
is one in the scratch, the state or each window. K counts inputs, groups of four in integer formats,
or groups of 32 of int4. `scale` is negative where weights have no scale a row; `start` is where the
sums of flipped activations begin (int32 in p), or the scales of int4's groups.
"""

from enum import IntEnum


class Op(IntEnum):
    """Operands in brackets; n, N, K are lengths, P a length padded to whole vectors. Those up to
    SCHEDULE see all rows at once."""

    END = 0  # []
    LOAD = 1  # [n, column of x, dst: s]
    STORE = 2  # [n, src: s, column of y]
    MATVEC = 3  # [N, K, src, dst: s, format, w, scale: p, bias: p or ADD, unit: s, start, from]
    QUANTIZE = 4  # [n, src, dst: s, unit: s, fixed: p, from, format]
    RNN = 5  # [P, g: s, h: h, act, dst: s]
    LSTM = 6  # [P, g: s, h: h, c: h, gate, cell, hidden, dst: s]
    GRU_AFTER = 7  # [P, g: s, u: s, h: h, gate, candidate, dst: s]
    GRU_RESET = 8  # [P, g: s, h: h, rh: s, gate]
    GRU_BLEND = 9  # [P, g: s, h: h, candidate, dst: s]
    LSTM_DOTS = 10  # [MATVEC's of W, of U by unit, h: h, c: h, dst: s]
    EMIT = 11  # [first, period]: of the outputs; comes first
    SCHEDULE = 12  # [first, period]: what follows runs at these steps only
    WINDOWS = 13  # [count, step, room]: which windows a row has from here on
    COPY_STATE = 14  # [n, src: h, dst: s]
    ACTIVATE = 15  # [P, src: s, dst: s, act, numbers: p]
    SOFTMAX = 16  # [n, src: s, dst: s, sums: s]
    SCALE = 17  # [n, src: s, dst: s, offset: p, scale: p, shift: p]
    EMBED = 18  # [D, src: s, dst: s, int8?, table: q or p, scale: p]
    COPY = 19  # [n, src: s, dst: s]
    SUM = 20  # [P, a: s, b: s, dst: s]
    PRODUCT = 21  # [P, a: s, b: s, dst: s]
    PUSH = 22  # [n, src: s, ring: h, entries, first, period]
    TAPS = 23  # [n, ring: h, dst: s, entries, first, period, width, kernel, dilation]
    DEPTHWISE = 24  # [P, taps: s, dst: s, int8?, w: q or p, scale: p, bias: p, width, kernel]
    POOL = 25  # [n, ring: h, dst: s, entries, first, period, average?]
    COLLECT = 26  # [n, src: s, dst: s, room, count]
    TAKE = 27  # [n, src: s, dst: s, places: p]
    FRAME_POOL = 28  # [n, src: s, dst: s, kernel, stride, average?, count]
    KEEP = 29  # [n, src: s, dst: h]
    LSTM_CELL = 30  # [P, g: s, c: h, m: s, coupled?]
    MIN_GRU = 31  # [P, g: s, h: h]
    LRU = 32  # [P, b: s, re: h, im: h, lambda_re: p, lambda_im: p]
    LOG_SOFTMAX = 33  # [n, src: s, dst: s, sums: s]
    STANDARDISE = 34  # [n, src: s, dst: s, sums: s, epsilon: p, P, runs]
    RMS = 35  # [n, src: s, dst: s, sums: s, epsilon: p]
    L2 = 36  # [n, src: s, dst: s, sums: s, epsilon: p]
    AFFINE = 37  # [P, src: s, dst: s, gain: p, bias: p or ADD]
    PRELU = 38  # [P, src: s, dst: s, slope: p]


PRODUCT_OPERANDS = 11

LENGTHS = {
    Op.END: 0,
    Op.LOAD: 3,
    Op.STORE: 3,
    Op.MATVEC: PRODUCT_OPERANDS,
    Op.QUANTIZE: 7,
    Op.RNN: 5,
    Op.LSTM: 8,
    Op.GRU_AFTER: 7,
    Op.GRU_RESET: 5,
    Op.GRU_BLEND: 5,
    Op.LSTM_DOTS: 2 * PRODUCT_OPERANDS + 3,
    Op.EMIT: 2,
    Op.SCHEDULE: 2,
    Op.WINDOWS: 3,
    Op.COPY_STATE: 3,
    Op.ACTIVATE: 5,
    Op.SOFTMAX: 4,
    Op.SCALE: 6,
    Op.EMBED: 6,
    Op.COPY: 3,
    Op.SUM: 4,
    Op.PRODUCT: 4,
    Op.PUSH: 6,
    Op.TAPS: 9,
    Op.DEPTHWISE: 9,
    Op.POOL: 7,
    Op.COLLECT: 5,
    Op.TAKE: 4,
    Op.FRAME_POOL: 7,
    Op.KEEP: 3,
    Op.LSTM_CELL: 5,
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

FROM_SCRATCH, FROM_STATE, FROM_WINDOWS = range(3)
"""Where a MATVEC or QUANTIZE reads. From windows it runs once for each: a row's begin `step` words
apart in its scratch, and their integers and sums lie `room` apart."""

SCRATCH, STATE, STEP, ROW, PLACES = range(5)
"""What is known of each row of a chunk: where its scratch and its state begin, its stream's step,
the message that it is of, by its place in the chunk; and how many these are."""

PHASES, HOP, LENGTH, WIDTH, KEPT, MASK, BEGIN = range(7)
"""What a program says of its windows: how many a stream may be in at once (0: it has none), their
hop and length, the numbers of the state of each; where in that a 1 stands, and the outputs behind
it, once it has had any (-1: they are not kept); where the mask is, in p (-1: there is none); where
what the state of a window begins as is, in p (-1: zeros)."""

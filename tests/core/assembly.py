"""The inner loops of the dot products as another processor's machine code, on any machine.

    python -m tests.core.assembly LEVEL CPU

compiles the tiles that an edge_rnn.kernels.cpu level uses to assembly for an LLVM CPU and prints
each one's innermost loop as JSON. Nothing of it runs: the kernels are told of another processor,
and Numba's code is taken before this machine's code is made of it. This leans on Numba's insides.
"""

from __future__ import annotations

import json
import os
import re
import sys
from types import ModuleType
from typing import Any

os.environ["NUMBA_OPT"] = "0"

from numba import types

MULTIPLY_ADDS = {
    "sdot": 16, "smull": 8, "smull2": 8, "smlal": 8, "smlal2": 8,
    "vpdpbusd zmm": 64, "vpdpbusd ymm": 32, "vpmaddubsw ymm": 32, "vpmaddwd ymm": 16,
}  # fmt: skip


def tiles(products: ModuleType) -> dict[str, tuple[Any, Any]]:
    """(function, signature) of the tiles that the level uses."""
    from edge_rnn.kernels import nibbles
    from edge_rnn.kernels.integers import ints, to_float
    from edge_rnn.kernels.simd import store

    block = products.BLOCK

    def one(w, at, K, x, r, s, y):
        store(y, 0, to_float(products._dots1(w, at, K, x, r, ints(s, 0, block))))

    def two_blocks(w, at, K, x, r, s, y):
        a, b = products._dots2(w, at, K, x, r, ints(s, 0, block), ints(s, block, block))
        store(y, 0, to_float(a))
        store(y, block, to_float(b))

    def two_rows(w, at, K, x, r, s, y):
        a, b = products._dots_rows(w, at, K, x, r, r + 1000, ints(s, 0, block))
        store(y, 0, to_float(a))
        store(y, block, to_float(b))

    def four_rows(w, at, K, x, r, s, y):
        rows = (r, r + 1000, r + 2000, r + 3000)
        for i, a in enumerate(products._dots_four(w, at, K, x, *rows, ints(s, 0, block))):
            store(y, i * block, to_float(a))

    def wide_bytes(w, at, K, x, r, s, y):
        store(y, 0, products._bytes1(w, at, K, x, r, ints(s, 0, block)))

    def wide_shorts(w, at, K, x, r, s, y):
        store(y, 0, products._shorts1(w, at, K, x, r))

    def four_bit(w, at, K, x, r, s, p, y):
        store(y, 0, nibbles._nibbles1(w, at, K, x, r, s, r, p, at))

    int8, int16, int32, floats = (
        types.Array(t, 1, "C") for t in (types.int8, types.int16, types.int32, types.float32)
    )
    n = types.intp
    signature = types.void(int8, n, n, int8, n, int32, floats)
    found: dict[str, tuple[Any, Any]] = {"one row": (one, signature)}
    if not products.PAIRED:
        found["one row, two blocks"] = (two_blocks, signature)
        found["two rows"] = (two_rows, signature)
    if products.FOUR_ROWS:
        found["four rows"] = (four_rows, signature)
    wide = types.void(int8, n, n, int16 if products.SHORTS else int8, n, int32, floats)
    found["int16"] = (wide_shorts if products.SHORTS else wide_bytes, wide)
    if not nibbles.SHORT_SUMS:  # AVX2's sixteen registers do not hold the totals beside a group
        found["int4"] = (four_bit, types.void(int8, n, n, int8, n, int32, floats, floats))
    return found


def dot_loop(assembly: str) -> list[str]:
    """The instructions of the shortest loop that multiplies: the innermost."""
    lines = [line.strip() for line in assembly.splitlines()]
    labels = {line[:-1]: i for i, line in enumerate(lines) if re.match(r"\.L\w+:", line)}
    loops = []
    for i, line in enumerate(lines):
        jump = re.match(r"(?:b\.?\w*|cbn?z \w+,|tbn?z .*,|j\w+)\s+(\.L\w+)$", line)
        if jump and labels.get(jump[1], i) < i:
            body = [x for x in lines[labels[jump[1]] + 1 : i + 1] if re.match(r"[a-z{]", x)]
            if multiply_adds(body):
                loops.append(body)
    return min(loops, key=len)


def multiply_adds(body: list[str]) -> int:
    """How many of them a loop's instructions do."""
    total = 0
    for line in body:
        name = line.removeprefix("{vex}").split()[0]
        register = re.search(r"%([yz]mm)\d+$", line)
        total += MULTIPLY_ADDS.get(f"{name} {register[1]}" if register else name, 0)
    # pmaddubsw's products are widened by a pmaddwd, which multiplies by ones.
    bytes_first = sum(x.startswith("vpmaddubsw") for x in body)
    return total - MULTIPLY_ADDS["vpmaddwd ymm"] * bytes_first


def main(level: str, cpu: str) -> None:
    """Print {tile: {instructions, multiply_adds, on_stack}}."""
    os.environ["EDGE_RNN_CPU"] = level
    from edge_rnn.kernels import build, products

    build.keep_code()
    machine = build.target_machine(cpu, "")
    found = {}
    for name, (function, signature) in tiles(products).items():
        code = build.optimised([build.compiled(function, signature)], machine)
        body = dot_loop(str(machine.emit_assembly(code)))
        found[name] = {
            "instructions": len(body),
            "multiply_adds": multiply_adds(body),
            "on_stack": [x for x in body if re.search(r"\[sp|%rsp|%rbp\)", x)],
            "names": sorted({x.removeprefix("{vex}").split()[0] for x in body}),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])

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

import llvmlite.binding as llvm
from numba import njit, types
from numba.core import codegen
from numba.core.cpu import CPUContext

from tests.core.cross import TRIPLES, pretend

MULTIPLY_ADDS = {
    "sdot": 16, "smull": 8, "smull2": 8, "smlal": 8, "smlal2": 8,
    "vpdpbusd zmm": 64, "vpdpbusd ymm": 32, "vpmaddubsw ymm": 32, "vpmaddwd ymm": 16,
}  # fmt: skip


def keep_code() -> None:
    """Have Numba keep LLVM's code and make no machine code of it."""
    codegen.JITCodeLibrary._finalize_specific = lambda self: None
    codegen.JITCodeLibrary.get_pointer_to_function = lambda self, name: 1
    CPUContext.get_executable = lambda self, library, descriptor, environment: [].append


def tiles(products: ModuleType, level: Any) -> dict[str, tuple[Any, Any]]:
    """(function, signature) of the tiles that the level uses."""
    from edge_rnn.kernels.integers import ints, to_float
    from edge_rnn.kernels.simd import store

    block = products.BLOCK

    def one(w, at, K, x, r, s, y):
        store(y, 0, to_float(products._dots1(w, at, K, x, r, ints(s, 0, block))))

    def two_blocks(w, at, K, x, r, s, y):
        a, b = products._dots2(w, at, K, x, r, ints(s, 0, block), ints(s, 32, block))
        store(y, 0, to_float(a))
        store(y, block, to_float(b))

    def two_rows(w, at, K, x, r, s, y):
        a, b = products._dots_rows(w, at, K, x, r, r + 1000, ints(s, 0, block))
        store(y, 0, to_float(a))
        store(y, block, to_float(b))

    def wide_bytes(w, at, K, x, r, s, y):
        store(y, 0, products._bytes1(w, at, K, x, r, ints(s, 0, block)))

    def wide_shorts(w, at, K, x, r, s, y):
        store(y, 0, products._shorts1(w, at, K, x, r))

    int8, int16, int32, floats = (
        types.Array(t, 1, "C") for t in (types.int8, types.int16, types.int32, types.float32)
    )
    n = types.intp
    signature = types.void(int8, n, n, int8, n, int32, floats)
    found: dict[str, tuple[Any, Any]] = {"one row": (one, signature)}
    if not products.PAIRED:
        found["one row, two blocks"] = (two_blocks, signature)
        found["two rows"] = (two_rows, signature)
    wide = types.void(int8, n, n, int16 if products.SHORTS else int8, n, int32, floats)
    found["int16"] = (wide_shorts if products.SHORTS else wide_bytes, wide)
    return found


def emit(function: Any, signature: Any, machine: Any, triple: str) -> str:
    """The function as assembly, with all that it calls."""
    compiled = njit(signature, boundscheck=False, error_model="numpy")(function)
    result = compiled.overloads[signature.args]

    def module(library: Any) -> Any:
        code = re.sub(r"target (triple|datalayout) = .*", "", str(library._final_module))
        parsed = llvm.parse_assembly(code)
        parsed.triple, parsed.data_layout = triple, str(machine.target_data)
        for f in parsed.functions:
            if not f.is_declaration:
                f.linkage = "linkonce_odr"
        return parsed

    def defined(parsed: Any) -> set[str]:
        return {f.name for f in parsed.functions if not f.is_declaration}

    main = module(result.library)
    rest = [module(library) for library in _libraries(result.library, {})]
    while needed := [
        m for m in rest if defined(m) & ({f.name for f in main.functions} - defined(main))
    ]:
        rest.remove(needed[0])
        main.link_in(needed[0])
    for f in main.functions:
        if not f.is_declaration:
            own = f.name == result.fndesc.llvm_func_name
            f.linkage = "external" if own else "internal"
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    pruning = llvm.create_new_module_pass_manager()
    pruning.add_refprune_pass()
    for passes in (builder.getModulePassManager(), pruning, builder.getModulePassManager()):
        passes.run(main, builder)
    return str(machine.emit_assembly(main))


def _libraries(library: Any, seen: dict[int, Any]) -> list[Any]:
    for linked in library._linking_libraries:
        if id(linked) not in seen:
            seen[id(linked)] = linked
            _libraries(linked, seen)
    return list(seen.values())


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
    chosen = pretend(level)
    keep_code()
    from edge_rnn.kernels import products

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    triple = TRIPLES[chosen.machine]
    target = llvm.Target.from_triple(triple)
    machine = target.create_target_machine(cpu=cpu, opt=3, reloc="pic", codemodel="default")
    found = {}
    for name, (function, signature) in tiles(products, chosen).items():
        body = dot_loop(emit(function, signature, machine, triple))
        found[name] = {
            "instructions": len(body),
            "multiply_adds": multiply_adds(body),
            "on_stack": [x for x in body if re.search(r"\[sp|%rsp|%rbp\)", x)],
            "names": sorted({x.removeprefix("{vex}").split()[0] for x in body}),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Compiles kernels to object code.

    python -m edge_rnn.kernels.build LIBRARY FILE

for the processor that EDGE_RNN_CPU names, which need not be this one: Numba makes LLVM's code of
the kernels, and LLVM machine code of that. It prints the name of each kernel as it begins. It leans
on Numba's insides, so it is a process of its own, with NUMBA_OPT=0: all is optimised once, at the
end.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba
from numba.core import codegen
from numba.core import event as _event
from numba.core.cpu import CPUContext

from edge_rnn.kernels.cpu import LEVEL
from edge_rnn.kernels.entries import LIBRARIES, Entry
from edge_rnn.kernels.jit import OPTIONS
from edge_rnn.kernels.native import PYTHON_API
from edge_rnn.kernels.wrappers import numba_type, wrapper

event: Any = _event  # untyped

TRIPLES = {"x86_64": "x86_64-unknown-linux-gnu", "aarch64": "aarch64-unknown-linux-gnu"}
_LIBRARY_CALLS = ("mem(cpy|move|set|cmp)$|bcmp$", r"llvm\.")
"""What else code may call: what C's library has to copy and compare memory, and LLVM's own."""
_FAST_MATH = re.compile(
    r"(?:= f\w+|\bcall\b[^\n@]*) (?:fast|nnan|ninf|nsz|arcp|contract|afn|reassoc) [^\n]*"
)


def keep_code() -> None:
    """Have Numba keep LLVM's code as it writes it, and make no machine code or wrappers of it."""
    library: Any = codegen.JITCodeLibrary
    for step in ("_optimize_functions", "_optimize_final_module", "_finalize_specific"):
        setattr(library, step, lambda *_: None)
    library.get_pointer_to_function = lambda *_: 1
    context: Any = CPUContext
    context.create_cpython_wrapper = context.create_cfunc_wrapper = lambda *_, **__: None
    context.get_executable = lambda *_: [].append


def target_machine(cpu: str = LEVEL.target, features: str = LEVEL.features) -> Any:
    """What makes the level's machine code, for a CPU by LLVM's name."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple(TRIPLES[LEVEL.machine])
    return target.create_target_machine(
        cpu=cpu, features=features, opt=3, reloc="pic", codemodel="default"
    )


def compiled(function: Any, signature: Any) -> Any:
    """Numba's result for the function and a signature."""
    made = numba.njit(signature, **OPTIONS)(getattr(function, "py_func", function))
    return made.overloads[signature.args]


def optimised(results: Iterable[Any], machine: Any, wrappers: Iterable[Any] = ()) -> Any:
    """One LLVM module of functions with all that they call. Its symbols are the `wrappers` (IR
    modules of one function each); without any, the functions."""
    main, found = _parsed("", machine), list(results)
    for code in list(wrappers) or [r.library._final_module for r in found]:
        main.link_in(_parsed(str(code), machine))
    own = _defined(main) if wrappers else {r.fndesc.llvm_func_name for r in found}
    pool: dict[str, Any] = {}
    for result in found:
        _pool(result.library, pool, set())
    while needed := [pool[name] for name in _declared(main) if name in pool]:
        main.link_in(_shared(needed[0], machine))
    for f in main.functions:
        if not f.is_declaration:
            f.linkage = "external" if f.name in own else "internal"
    for variable in main.global_variables:
        if not variable.is_declaration:
            variable.linkage = "internal"
    _optimise(main, machine)
    return main


def main(library: str, file: str) -> None:
    """Write the library's object code into a file."""
    keep_code()
    event.register("numba:compile", _Teller())
    entries, machine = LIBRARIES[library], target_machine()
    results = [_compiled_entry(e) for e in entries]
    wrappers = [wrapper(e, r) for e, r in zip(entries, results, strict=True)]
    module = optimised(results, machine, wrappers)
    if found := faults(str(module)):
        raise RuntimeError(f"kernels must not be compiled to this: {', '.join(found)}")
    Path(file).write_bytes(machine.emit_object(module))


def faults(code: str) -> list[str]:
    """What must not be in LLVM's code: flags that let a compiler change a float's bits, and
    functions that are neither in it nor where code is loaded, such as those of a libm."""
    flagged = _FAST_MATH.findall(code)
    outside = re.findall(r'^declare [^@]*@"?([\w.$]+)', code, re.MULTILINE)
    known = (*(f"{name}$" for name in PYTHON_API), *_LIBRARY_CALLS)
    return flagged + [name for name in outside if not re.match("|".join(known), name)]


class _Teller(_event.Listener):
    """Prints the name of a function of ours that begins to be compiled."""

    def on_start(self, event: Any) -> None:
        function = event.data["dispatcher"].py_func
        if function.__module__.startswith("edge_rnn.") and function.__name__ != "<lambda>":
            print(function.__name__, flush=True)

    def on_end(self, event: Any) -> None:
        pass


def _parsed(code: str, machine: Any) -> Any:
    module = llvm.parse_assembly(re.sub(r"target (triple|datalayout) = .*", "", code))
    module.triple, module.data_layout = machine.triple, str(machine.target_data)
    return module


def _shared(library: Any, machine: Any) -> Any:
    module = _parsed(str(library._final_module), machine)
    for f in module.functions:
        if not f.is_declaration:
            f.linkage = "linkonce_odr"
    return module


def _defined(module: Any) -> set[str]:
    return {f.name for f in module.functions if not f.is_declaration}


def _declared(module: Any) -> set[str]:
    return {f.name for f in module.functions if f.is_declaration}


def _pool(library: Any, pool: dict[str, Any], seen: set[int]) -> None:
    """Note by their names the functions of a library and of all that it calls."""
    seen.add(id(library))
    pool |= dict.fromkeys(_defined(library._final_module), library)
    for linked in library._linking_libraries:
        if id(linked) not in seen:
            _pool(linked, pool, seen)


def _optimise(module: Any, machine: Any) -> None:
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    builder.getModulePassManager().run(module, builder)
    module.verify()


def _compiled_entry(entry: Entry) -> Any:
    function = getattr(import_module(f"edge_rnn.kernels.{entry.module}"), entry.name)
    function.compile(tuple(numba_type(kind) for kind in entry.kinds))
    return next(iter(function.overloads.values()))


if __name__ == "__main__":
    main(*sys.argv[1:])

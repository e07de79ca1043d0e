"""Exported programs (.pt2), read without `torch.export.load`.

That function falls back to pickles that run code, and hands the text of symbolic sizes to an
evaluator of Python. What a program is stands in JSON beside raw weights, both of which need
neither: https://github.com/pytorch/pytorch/blob/main/torch/_export/serde/schema.py. Its ATen
operators are then called one by one.
"""

from __future__ import annotations

import io
import json
import operator
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_rnn.errors import UnsupportedError
from edge_rnn_converters.source import MAX_BYTES, refuse

_DTYPES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32",
           8: "float64", 12: "bool", 13: "bfloat16"}  # fmt: skip
_SCALARS: dict[str, Callable[..., Any]] = {
    f"_operator.{name}": getattr(operator, name)
    for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "eq", "ne", "lt", "le", "gt", "ge")
}
_ASSERTIONS = ("_assert", "sym_constrain_range", "_guards_fn")
_AGAIN = "save it again with torch.export.save of PyTorch 2.9 or later"
_PLAIN = ("as_int", "as_float", "as_bool", "as_string", "as_ints", "as_floats", "as_bools",
          "as_strings")  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Archive:
    """An exported program: `graph` and `signature` as JSON has them, tensors by their names in the
    graph; `names` of the inputs that are given."""

    graph: Mapping[str, Any]
    results: tuple[Mapping[str, Any], ...]
    tensors: Mapping[str, Any]
    mutated: Mapping[str, str]
    names: tuple[str, ...]

    def example(self) -> tuple[Any, ...]:
        """Zeros of the inputs' shapes."""
        import torch

        return tuple(torch.zeros(self._sizes(n, hint=True), dtype=self._dtype(n))
                     for n in self.names)  # fmt: skip

    def _sizes(self, name: str, hint: bool) -> list[Any]:
        sizes = self.graph["tensor_values"][name]["sizes"]
        return [_size(n) if "as_int" in n or hint else None for n in sizes]

    def _dtype(self, name: str) -> Any:
        return _dtype(self.graph["tensor_values"][name]["dtype"])

    def fresh(self) -> tuple[Callable[..., Any], dict[int, str]]:
        """The program in its initial state, and the names of its weights."""
        tensors = {name: t.clone() for name, t in self.tensors.items()}
        labels = {id(t): _label(name) for name, t in tensors.items()}

        def run(*given: Any) -> Any:
            for name, tensor in zip(self.names, given, strict=True):
                fixed = self._sizes(name, hint=False)
                if any(n not in (None, m) for n, m in zip(fixed, tensor.shape, strict=True)):
                    raise ValueError(f"{name!r} was exported with the shape {fixed}")
            values = {**tensors, **dict(zip(self.names, given, strict=True))}
            for node in self.graph["nodes"]:
                _run(node, values)
            tensors.update({kept: values[made] for kept, made in self.mutated.items()})
            return [_argument(result, values) for result in self.results]

        return run, labels


def _label(name: str) -> str:
    """p_gru_weight_ih_l0 -> gru.weight_ih_l0, as far as the name in the graph tells."""
    bare = name.split("_", 1)[1] if name.startswith(("p_", "b_", "c_")) else name
    for part in ("weight", "bias", "running"):
        head, found, tail = bare.partition(f"_{part}")
        if found:
            return f"{head}.{part}{tail}"
    return bare


def load(path: Path) -> Archive:
    """The program in a .pt2 file.

    Raises UnsupportedError for a file of another layout or one that needs an unsafe pickle.
    """
    with zipfile.ZipFile(path) as z:
        if sum(i.file_size for i in z.infolist()) > MAX_BYTES:
            raise UnsupportedError(f"{path.name}: unpacks to more than {MAX_BYTES} bytes")
        files = _Files(z)
        program = json.loads(files.read("models/model.json", "serialized_exported_program.json"))
        weights, constants = files.weights(), files.constants()
    module = program["graph_module"]
    tensors, names = _inputs(module["signature"], weights, constants)
    results, mutated = _outputs(module["signature"], tensors)
    return Archive(module["graph"], results, tensors, mutated, names)


@dataclass(frozen=True, slots=True)
class _Files:
    """The members of the archive, under its one folder or none."""

    zip: zipfile.ZipFile

    def find(self, *names: str) -> str | None:
        return next((m for m in self.zip.namelist() for n in names if m == n or
                     m.partition("/")[2] == n), None)  # fmt: skip

    def read(self, *names: str) -> bytes:
        member = self.find(*names)
        if member is None:
            raise refuse("file", names[0], "is missing", _AGAIN)
        return self.zip.read(member)

    def weights(self) -> dict[str, Any]:
        return self._tensors("data/weights", "model_weights_config.json", "state_dict")

    def constants(self) -> dict[str, Any]:
        return self._tensors("data/constants", "model_constants_config.json", "constants")

    def _tensors(self, folder: str, config: str, legacy: str) -> dict[str, Any]:
        """Tensors by name. Older files have them in one pickle, read as weights only."""
        import torch

        old = self.find(f"serialized_{legacy}.pt", f"{folder}/model.pt")
        if old is not None:
            found: dict[str, Any] = torch.load(
                io.BytesIO(self.zip.read(old)), weights_only=True, map_location="cpu"
            )
            return found
        entries = json.loads(self.read(f"{folder}/{config}"))["config"]
        return {name: self._tensor(name, folder, entry) for name, entry in entries.items()}

    def _tensor(self, name: str, folder: str, entry: Mapping[str, Any]) -> Any:
        import torch

        meta = entry["tensor_meta"]
        if entry["use_pickle"] or meta is None:
            raise refuse(f"weight {name!r}", "pickle", "is not a plain tensor", _AGAIN)
        raw = bytearray(self.read(f"{folder}/{entry['path_name']}"))
        flat = torch.frombuffer(raw, dtype=_dtype(meta["dtype"])) if raw else torch.empty(0)
        sizes, strides = ([_size(n) for n in meta[k]] for k in ("sizes", "strides"))
        return flat.as_strided(sizes, strides, _size(meta["storage_offset"])).clone()


def _inputs(
    signature: Mapping[str, Any], weights: Mapping[str, Any], constants: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(the program's own tensors, the names of the tensors it is given)."""
    tensors, names = {}, []
    for spec in signature["input_specs"]:
        ((kind, found),) = spec.items()
        argument = found["arg"]
        if kind == "user_input":
            if "as_tensor" in argument:
                names.append(argument["as_tensor"]["name"])
        elif kind in ("parameter", "buffer", "tensor_constant"):
            own = found[f"{kind}_name"]
            tensors[argument["name"]] = weights[own] if own in weights else constants[own]
        else:
            raise refuse("program", f"input of kind {kind}", "is not a tensor", _AGAIN)
    return tensors, tuple(names)


def _outputs(
    signature: Mapping[str, Any], tensors: Mapping[str, Any]
) -> tuple[tuple[Mapping[str, Any], ...], dict[str, str]]:
    """(the results, for each buffer that is written the value that it gets)."""
    buffers = {spec["buffer"]["buffer_name"]: spec["buffer"]["arg"]["name"]
               for spec in signature["input_specs"] if "buffer" in spec}  # fmt: skip
    results, mutated = [], {}
    for spec in signature["output_specs"]:
        ((kind, found),) = spec.items()
        if kind == "user_output":
            results.append(found["arg"])
        elif kind == "buffer_mutation":
            mutated[buffers[found["buffer_name"]]] = found["arg"]["name"]
        else:
            why = "is a kind of output that is not read"
            raise refuse("program", kind, why, "export the module in evaluation mode")
    return tuple(results), mutated


def _run(node: Mapping[str, Any], values: dict[str, Any]) -> None:
    target = node["target"]
    if any(name in target for name in _ASSERTIONS):
        return
    arguments = [(i.get("kind", 1), i["name"], _argument(i["arg"], values)) for i in node["inputs"]]
    positional = [value for kind, _, value in arguments if kind == 1]
    named = {name: value for kind, name, value in arguments if kind == 2}
    result = _function(target)(*positional, **named)
    outputs = node["outputs"]
    several = len(outputs) > 1
    for output, value in zip(outputs, result if several else [result], strict=True):
        ((kind, found),) = output.items()
        if kind == "as_tensor":
            values[found["name"]] = value
        elif kind == "as_tensors":
            values.update({f["name"]: v for f, v in zip(found, value, strict=True)})
        elif "as_name" in found:
            values[found["as_name"]] = value


def _function(target: str) -> Callable[..., Any]:
    """The ATen operator, or arithmetic on sizes; nothing else is called."""
    import torch

    if target in _SCALARS:
        return _SCALARS[target]
    head, _, rest = target.partition("torch.ops.aten.")
    name, _, overload = rest.partition(".")
    packet = getattr(torch.ops.aten, name, None) if rest and not head else None
    function: Callable[..., Any] | None = getattr(packet, overload, None)
    if function is None:
        why = "is no ATen operator of this PyTorch"
        raise refuse("program", f"operator {target}", why, "export without it")
    return function


def _argument(arg: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
    ((kind, found),) = arg.items()
    if kind in _PLAIN:
        return found
    match kind:
        case "as_none":
            return None
        case "as_tensor":
            return values[found["name"]]
        case "as_tensors":
            return [values[f["name"]] for f in found]
        case "as_optional_tensor" | "as_sym_int" | "as_sym_float" | "as_sym_bool":
            return _scalar(found, values)
        case "as_optional_tensors" | "as_sym_ints" | "as_sym_floats" | "as_sym_bools":
            return [_scalar(f, values) for f in found]
        case "as_scalar_type":
            return _dtype(found)
        case "as_device":
            return "cpu"
        case "as_layout" | "as_memory_format":
            return None
    raise refuse("program", kind.removeprefix("as_"), "is not a number or tensor", _AGAIN)


def _scalar(found: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
    ((kind, value),) = found.items()
    if kind == "as_tensor":
        return values[value["name"]]
    return values[value] if kind == "as_name" else None if kind == "as_none" else value


def _size(size: Mapping[str, Any]) -> int:
    """A size; of an open one, what it was at the export."""
    if "as_int" in size:
        return int(size["as_int"])
    hint = (size["as_expr"].get("hint") or {}).get("as_int")
    return 7 if hint is None else int(hint)


def _dtype(number: int) -> Any:
    import torch

    if number not in _DTYPES:
        raise refuse("program", f"type {number}", "is not one that is read", "use float32")
    return getattr(torch, _DTYPES[number])

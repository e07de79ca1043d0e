"""Records the ATen operators that a PyTorch callable runs, and what flows between them.

In inference mode the dispatcher shows a `TorchDispatchMode` every operator before it is decomposed:
`aten.gru.input` comes as one call with its weights, whether a Python module, an exported program or
TorchScript made it. Control flow, lists and attributes are gone by then, and a tensor that a call
reads from the call before is a state, wherever it was kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edge_rnn.errors import UnsupportedError
from edge_rnn_converters.source import refuse

MAX_CALLS = 50_000
_BLANK = {"zeros", "zeros_like", "new_zeros", "full", "new_full", "full_like"}
BLANK = ("blank",)
"""The key of a new tensor of one number."""
_READS_DATA = {"aten._local_scalar_dense.default", "aten.item.default", "aten.is_nonzero.default",
               "aten.equal.default", "aten.allclose.default", "aten.nonzero.default"}  # fmt: skip
_TRANSPARENT = {"aten.detach.default", "aten.alias.default", "aten.lift_fresh.default"}
_SILENT = {"aten.size.int", "aten.sym_size.int", "prim.device.default", "aten.dim.default"}


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A tensor as it was between two writes to it: `key` is its place in the recording, the same
    in every call, such as ("input", 0) or (call, output); None for one made outside of it.

    `varies`: it depends on what the callable is given.
    """

    tensor: Any
    key: tuple[Any, ...] | None
    varies: bool
    round: int


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """An operator's call; `arguments` by the names of its schema, tensors as Values, defaults
    included."""

    target: str
    function: Any
    arguments: dict[str, Any]
    outputs: tuple[Value, ...]

    def refuse(self, attribute: str, why: str, way_out: str) -> UnsupportedError:
        """The refusal of this call for what `attribute` holds."""
        return refuse(f"operator {self.target}", attribute, why, way_out)


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """One call of the callable: what it was given, ran and returned, all tensors in order."""

    number: int
    inputs: tuple[Value, ...]
    calls: tuple[Call, ...]
    outputs: tuple[Value, ...]


def values(arguments: Any) -> Iterator[Value]:
    """All Values in nested arguments."""
    if isinstance(arguments, Value):
        yield arguments
    elif isinstance(arguments, dict):
        yield from values(list(arguments.values()))
    elif isinstance(arguments, list | tuple):
        for item in arguments:
            yield from values(item)


def record(
    function: Callable[..., Any],
    rounds: Sequence[tuple[Any, ...]],
    whole: frozenset[str],
    blanks: bool = False,
) -> list[Round]:
    """Call the function once for each tuple of arguments. Operators outside of `whole`, with or
    without overload, that PyTorch can decompose are recorded as what they are made of; with
    `blanks`, what is computed of constants is recorded too, but not what makes tensors of one
    number, which are BLANK.

    Raises UnsupportedError for what can't be followed: decisions on the data's values, tensors
    changed through another view of them.
    """
    import torch

    book = _Book(whole, blanks)
    with torch.inference_mode(), _mode(book):
        return [book.round(function, arguments) for arguments in rounds]


def replay(call: Call, read: Callable[[Value], Any], arguments: dict[str, Any]) -> list[Any]:
    """The tensors that the call makes of others: of those that `read` gives for its own."""

    def actual(a: Any) -> Any:
        if isinstance(a, Value):
            return read(a)
        return [actual(i) for i in a] if isinstance(a, list) else a

    given = [a for a in call.function._schema.arguments if a.name in arguments]
    positional = [actual(arguments[a.name]) for a in given if not a.kwarg_only]
    named = {a.name: actual(arguments[a.name]) for a in given if a.kwarg_only}
    result = call.function(*positional, **named)
    return [t for t in (result if isinstance(result, list | tuple) else [result]) if _is_tensor(t)]


@dataclass(slots=True)
class _Book:
    """What is known of each tensor; tensors are kept, so that no two have one id or storage."""

    whole: frozenset[str]
    blanks: bool = False
    known: dict[int, Value] = field(default_factory=dict)
    written: dict[int, dict[int, tuple[int, Any]]] = field(default_factory=dict)
    """By storage and the id of the tensor that was written through: when last, and the tensor."""
    kept: list[Any] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    number: int = 0
    clock: int = 0
    seen: dict[int, int] = field(default_factory=dict)
    trouble: UnsupportedError | None = None

    def round(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Round:
        from torch.utils import _pytree

        self.calls = []
        flat = [a for a in _pytree.tree_leaves(arguments) if _is_tensor(a)]
        inputs = tuple(self.note(t, ("input", i), True) for i, t in enumerate(flat))
        result = function(*arguments)
        if self.trouble is not None:
            raise self.trouble
        outputs = tuple(self.read(t) for t in _pytree.tree_leaves(result) if _is_tensor(t))
        self.number += 1
        return Round(self.number - 1, inputs, tuple(self.calls), outputs)

    def note(self, tensor: Any, key: tuple[Any, ...] | None, varies: bool) -> Value:
        """The tensor holds a new value from now on."""
        value = Value(tensor, key, varies, self.number)
        self.clock += 1
        self.kept.append(tensor)
        self.known[id(tensor)] = value
        self.seen[id(tensor)] = self.clock
        return value

    def read(self, tensor: Any) -> Value:
        value = self.known.get(id(tensor)) or self.note(tensor, None, varies=False)
        if self.trouble is None and self._is_changed(tensor):
            self.trouble = refuse(
                "model", "in-place operator", "changes a tensor through another view of it",
                "build a new tensor instead (torch.stack, torch.cat), out of place",
            )  # fmt: skip
        return value

    def _is_changed(self, tensor: Any) -> bool:
        """Was something of it written through another tensor since it was noted?"""
        writes = self.written.get(_storage(tensor), {}).values()
        return any(
            when > self.seen[id(tensor)] and other is not tensor and _overlap(tensor, other)
            for when, other in writes
        )

    def write(self, tensor: Any) -> None:
        self.clock += 1
        self.written.setdefault(_storage(tensor), {})[id(tensor)] = self.clock, tensor

    def dispatch(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        target = str(function)
        if target in _SILENT:
            return function(*args, **kwargs)
        arguments = self._named(function, args, kwargs)
        if self.blanks and target.split(".")[1] in _BLANK:
            result = function(*args, **kwargs)
            self.note(result, BLANK, varies=True)
            return result
        made = target.split(".")[1] in _BLANK  # only its size is another tensor's
        varies = any(v.varies for v in values(arguments)) and not made
        if target in _READS_DATA and varies:
            self.trouble = self.trouble or refuse(
                f"operator {target}", "control flow", "what is computed depends on the data's "
                "values", "use operators on tensors (torch.where) in place of Python's if",
            )  # fmt: skip
        if (varies or self.blanks) and self.whole.isdisjoint((target, target.split(".")[1])):
            with _mode(self):
                result = function.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        written = _written(function, arguments)
        if varies:
            arguments |= {name: _before(value) for name, value in written.items()}
        result = function(*args, **kwargs)
        if target in _TRANSPARENT:
            same: Value = arguments["self"]
            self.note(result, same.key, same.varies)
            self.known[id(result)] = replace(same, tensor=result)
            return result
        for value in written.values():
            self.write(value.tensor)
        self._record(function, target, arguments, result, varies)
        return result

    def _named(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        found = {}
        for i, argument in enumerate(function._schema.arguments):
            given = args[i] if i < len(args) else kwargs.get(argument.name, argument.default_value)
            found[argument.name] = self._read_all(given)
        return found

    def _read_all(self, given: Any) -> Any:
        if _is_tensor(given):
            return self.read(given)
        if isinstance(given, list | tuple):
            return [self._read_all(item) for item in given]
        return given

    def _record(
        self, function: Any, target: str, arguments: dict[str, Any], result: Any, varies: bool
    ) -> None:
        if len(self.calls) > MAX_CALLS:
            self.trouble = refuse("model", "size", f"runs over {MAX_CALLS} operators", "cut it")
        flat = result if isinstance(result, list | tuple) else [result]
        place = len(self.calls)
        outputs = tuple(
            self.note(t, (place, i) if varies or self.blanks else None, varies)
            for i, t in enumerate(flat)
            if _is_tensor(t)
        )
        if varies or self.blanks:
            self.calls.append(Call(target, function, arguments, outputs))


def _written(function: Any, arguments: Mapping[str, Any]) -> dict[str, Value]:
    """The arguments that the operator writes to."""
    names = (a.name for a in function._schema.arguments if a.alias_info and a.alias_info.is_write)
    return {name: arguments[name] for name in names if isinstance(arguments[name], Value)}


def _before(value: Value) -> Value:
    """What is written to as it was before; only of a constant are the numbers needed."""
    return value if value.varies else replace(value, tensor=value.tensor.clone())


def _is_tensor(a: Any) -> bool:
    import torch

    return isinstance(a, torch.Tensor)


def _storage(tensor: Any) -> int:
    return int(tensor.untyped_storage().data_ptr()) if tensor.numel() else id(tensor)


def _overlap(a: Any, b: Any) -> bool:
    """May two tensors of one storage share an element? Not where one ends before the other."""
    first, second = sorted((_span(a), _span(b)))
    return second[0] < first[1]


def _span(tensor: Any) -> tuple[int, int]:
    """The bytes of its storage from its first element to its last."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    start, last = tensor.storage_offset(), sum((n - 1) * stride for n, stride in sizes)
    size: int = tensor.element_size()
    return start * size, (start + last + 1) * size


def _mode(book: _Book) -> Any:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Recording(TorchDispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            return book.dispatch(function, args, kwargs or {})

    return Recording()

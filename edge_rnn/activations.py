"""Element-wise activations: names, names with numbers, and one of what another leaves.

    "tanh"    "elu(0.5)"    "sigmoid of clip(-3.0, 3.0)"

`docs/format.md` has the equation of each, `reference.activate` the code.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal, NamedTuple, TypeAlias, cast, get_args

import numpy as np

from edge_rnn.errors import ModelError

Act: TypeAlias = Literal[
    "linear",
    "relu",
    "relu6",
    "tanh",
    "sigmoid",
    "softsign",
    "silu",
    "hard_sigmoid_keras2",
    "hard_sigmoid_relu6",
    "elu",
    "selu",
    "gelu",
    "gelu_tanh",
    "softplus",
    "mish",
    "hard_swish",
    "hard_tanh",
    "exponential",
    "log_sigmoid",
    "min_gru",
    "sqrt",
    "square",
    "abs",
    "log",
]
"""What frameworks call by one name has two here where it differs: the hard sigmoids by up to 0.3,
`gelu` (by the normal distribution) and `gelu_tanh` by 5e-4. `silu` is swish, `selu` has the
constants of Klambauer et al. 2017, `min_gru` is g of Feng et al. 2024. Those with numbers are made
by `tuned` and `of`."""

ACTS: tuple[str, ...] = get_args(Act)

TUNED: dict[str, int] = {
    "affine": 2,
    "leaky_relu": 1,
    "thresholded_relu": 1,
    "scaled_tanh": 2,
    "hard_sigmoid": 2,
    "elu": 1,
    "clip": 2,
}
"""The activations that take numbers, and how many."""

MOST_STEPS = 4
_STEP = re.compile(r"([a-z_]{1,32})\(([^()]{1,100})\)")

RANGES: dict[str, float] = {
    "relu6": 6, "tanh": 1, "sigmoid": 1, "softsign": 1, "hard_sigmoid_keras2": 1,
    "hard_sigmoid_relu6": 1, "hard_tanh": 1, "hard_sigmoid": 1,
}  # fmt: skip
_SHARES = ("sigmoid", "hard_sigmoid_keras2", "hard_sigmoid_relu6", "hard_sigmoid")


class Step(NamedTuple):
    """One function of an activation, with the numbers that it takes, alpha and beta."""

    name: str
    numbers: tuple[float, ...] = ()


def tuned(name: str, *numbers: float) -> Act:
    """The activation with its numbers, as float32 has them. Raises ModelError if it is none."""
    act = f"{name}({', '.join(str(np.float32(n)) for n in numbers)})"
    steps(act)
    return cast(Act, act)


def of(outer: Act, inner: Act) -> Act:
    """The activation `outer` of what `inner` leaves."""
    if "linear" in (outer, inner):
        return outer if inner == "linear" else inner
    return cast(Act, f"{outer} of {inner}")


@lru_cache(256)
def steps(act: str) -> tuple[Step, ...]:
    """What an activation does, in order. Raises ModelError if it is none, naming all there are."""
    found = tuple(filter(None, map(_step, reversed(act.split(" of ")))))
    if len(found) != act.count(" of ") + 1 or len(found) > MOST_STEPS:
        numbered = (f"{name}({', '.join(['alpha', 'beta'][:n])})" for name, n in TUNED.items())
        raise ModelError(f"{', '.join(ACTS)}, {', '.join(numbered)}, or one 'of' another")
    return found


def _step(text: str) -> Step | None:
    if text in ACTS:
        return Step(text)
    match = _STEP.fullmatch(text)
    numbers = _numbers(match[2]) if match else ()
    if match is None or len(numbers) != TUNED.get(match[1]):
        return None
    ordered = match[1] != "clip" or numbers[0] <= numbers[1]
    return Step(match[1], numbers) if ordered else None


def _numbers(text: str) -> tuple[float, ...]:
    """Finite numbers as `tuned` writes them, so that one activation has one name; else none."""
    try:
        numbers = [np.float32(part) for part in text.split(", ")]
    except ValueError:
        return ()
    written = ", ".join(map(str, numbers)) == text
    return tuple(map(float, numbers)) if written and np.isfinite(numbers).all() else ()


def largest(act: str) -> float:
    """The largest size of what the activation leaves, 0 where there is none that is known."""
    name, numbers = steps(act)[-1]
    match name:
        case "clip":
            return max(abs(n) for n in numbers)
        case "scaled_tanh":
            return abs(numbers[0])
    return RANGES.get(name, 0.0)


def is_share(act: str) -> bool:
    """Does it go from 0 to 1? A gate of these mixes two numbers into one between them."""
    return steps(act)[-1].name in _SHARES

"""How every kernel is compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

F = TypeVar("F", bound=Callable[..., Any])

# Kernels own no memory: counting references to arrays would cost as much as a small layer.
OPTIONS: dict[str, Any] = {"error_model": "numpy", "boundscheck": False, "_nrt": False}


def kernel(function: F) -> F:
    """Compile for use by other kernels, and as an entry of `entries`; division by zero gives what
    IEEE arithmetic says."""
    compiled: F = njit(**OPTIONS)(function)
    return compiled

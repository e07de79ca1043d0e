"""In CI a skipped test is a failed one: its machine has everything. Two kinds of test can't run
everywhere and are told by marker: `jit` skips itself with the JIT off, in CI too; `process` starts
other processes, which an emulated Python can't (`-m "not process"`)."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterator

import pytest

# Keras computes with NumPy here: JAX compiles each little model anew, which takes ten times as
# long as all the rest of a test. Users have JAX: `test_keras.py` runs it in a process of its own.
os.environ.setdefault("KERAS_BACKEND", "numpy")
# Threads of BLAS and PyTorch would wait for one another in loops, on every core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.effort import JIT


def pytest_configure(config: pytest.Config) -> None:
    if not JIT:  # compiled code doesn't warn of what its arithmetic means to do
        config.addinivalue_line("filterwarnings", "ignore:.* encountered in:RuntimeWarning")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Compile the kernels before any test has to wait for that, whose time is limited."""
    if session.items and JIT and not session.config.option.collectonly:
        from edge_rnn.kernels import step

        _ = step.function


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A command sets the process's log up for itself; the next test wants all of it."""
    logger = logging.getLogger("edge_rnn")
    before = logger.level, logger.handlers, logger.propagate
    yield
    logger.setLevel(before[0])
    logger.handlers, logger.propagate = before[1:]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if not JIT and item.get_closest_marker("jit"):
        pytest.skip("is about compiled code, and the JIT is off")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    may_skip = not JIT and item.get_closest_marker("jit")
    if report.skipped and os.environ.get("CI") and not may_skip:
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {report.longrepr}"
    return report

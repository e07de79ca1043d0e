"""Strangers' files: a model or an error of ours, within 10 s and 1 GB, and no file written."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from edge_rnn.errors import EdgeRnnError
from edge_rnn_converters import convert
from tests.converters.fuzz import command, fuzz, variant
from tests.effort import fewer

pytest.importorskip("torch")

from tests.converters.fuzz_seeds import FAMILIES

EACH = 630 if "CI" in os.environ else 130
"""Changes of each of 16 files: 10,080 in CI, three minutes of one core, and 2,080 elsewhere."""


@pytest.mark.process
@pytest.mark.timeout(400)
@pytest.mark.parametrize("family", FAMILIES)
def test_changed_files_are_models_or_end_in_an_error_of_ours(family: str, tmp_path: Path) -> None:
    seeds = FAMILIES[family](tmp_path)
    found = fuzz(tmp_path, seeds, fewer(EACH))
    assert not found.bad
    assert sum(found.outcomes.values()) == fewer(EACH) * len(seeds)
    assert len(found.errors) > 10, "the changes reach little of the code"
    for case in found.ended:  # the command reads files in a process that it guards
        seed = next(seed for seed in seeds if seed.name == case.seed)
        code, said, left = command(tmp_path, seed, case.number)
        assert (code, left) == (1, []) and "Traceback" not in said, (case, said)


@pytest.mark.parametrize(("family", "name", "number"), [
    ("tflite", "lstm_fused_int8.tflite", 144), ("tflite", "lstm_fused_int8.tflite", 296),
    ("arrays", "w.npz", 368),
])  # fmt: skip
def test_what_ten_thousand_changes_found(
    family: str, name: str, number: int, tmp_path: Path
) -> None:
    """Damage that only what runs the source meets."""
    seed = next(seed for seed in FAMILIES[family](tmp_path) if seed.name == name)
    path = tmp_path / name
    path.write_bytes(variant(tmp_path, seed, number))
    with contextlib.suppress(EdgeRnnError):
        convert(path, network=seed.network)

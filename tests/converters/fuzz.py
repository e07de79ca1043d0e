"""Changed model files, thousands of them, each read as a stranger's file would be.

    python -m tests.converters.fuzz --n 10000

What must come of each: a model, or an error of ours, within 10 s of processor time and 1 GB, and no
file written. A process reads many files one after the other, under limits that the kernel keeps;
where it ends, the next one goes on behind the file that it ended at, and the real command, which
guards itself against such files, has to end that one with an error of ours.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import selectors
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.converters.mutate import mutated

SECONDS, MEMORY = 10, 1 << 30
WALL = 60.0
"""Seconds without a word after which a process that sleeps is ended."""
LIFE = 1000
"""Files that a process reads."""
WHOLE = 8
"""Of those files that are read, one in so many is converted as well."""


@dataclass(frozen=True, slots=True)
class Seed:
    """A sound file, how it is changed (see `mutate.KINDS`), and what its conversion is told."""

    name: str
    kind: str
    network: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """What came of change `number` of a seed: a model, an error of ours ("refused"), or else what
    happened, and the seconds of processor time."""

    seed: str
    number: int
    outcome: str
    seconds: float
    text: str = ""


@dataclass(slots=True)
class Found:
    """All cases, told apart."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    slowest: dict[str, Case] = field(default_factory=dict)
    errors: set[str] = field(default_factory=set)
    bad: list[Case] = field(default_factory=list)
    """Neither a model nor an error of ours."""
    ended: list[Case] = field(default_factory=list)
    """The process did not outlive these."""

    def add(self, case: Case) -> None:
        """Count it."""
        self.outcomes[case.seed, case.outcome] += 1
        slowest = self.slowest.setdefault(case.seed, case)
        if case.seconds > slowest.seconds:
            self.slowest[case.seed] = case
        if case.outcome == "refused":
            self.errors.add("".join(c for c in case.text[:60] if not c.isdigit()))
        elif case.outcome == "ended":
            self.ended.append(case)
        elif case.outcome != "model":
            self.bad.append(case)


def variant(folder: Path, seed: Seed, number: int) -> bytes:
    """Change `number` of a seed, always the same."""
    return mutated(
        (folder / seed.name).read_bytes(), seed.kind, random.Random(f"{seed.name} {number}")
    )


def fuzz(folder: Path, seeds: list[Seed], each: int) -> Found:
    """`each` changes of every seed in the folder."""
    found, done = Found(), 0
    while done < each * len(seeds):
        for case in _worker(folder, seeds, each, done):
            found.add(case)
            done += 1
    return found


def command(folder: Path, seed: Seed, number: int) -> tuple[int, str, list[str]]:
    """The real command on a change: its exit code, what it said, the files that it left."""
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / seed.name).write_bytes(variant(folder, seed, number))
        line = [
            sys.executable,
            "-m",
            "edge_rnn",
            "convert",
            seed.name,
            "-o",
            "m.ernn",
            "--steps",
            "9",
        ]
        more = ["--network", seed.network] if seed.network else []
        done = subprocess.run([*line, *more], cwd=place, env=_environment(), capture_output=True,
                              text=True, timeout=100)  # fmt: skip
        return done.returncode, done.stderr, [f for f in _files(place) if f != seed.name]


def _files(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def _worker(folder: Path, seeds: list[Seed], each: int, first: int) -> Iterator[Case]:
    """The cases that one process lives to see; if it ends early, how it did, as its last case."""
    last = min(first + LIFE, each * len(seeds))
    given = json.dumps([str(folder), [asdict(s) for s in seeds], each, first, last])
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.converters.fuzz", "--work", given],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(),
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None and process.stderr is not None
    at = first
    with process, selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while line := process.stdout.readline() if selector.select(WALL) else b"":
            yield Case(**json.loads(line))
            at += 1
        if at == last:
            return
        process.kill()
        code, said = process.wait(), process.stderr.read().decode(errors="replace")[-2000:]
    if code > 0:
        raise RuntimeError(f"the process that reads changed files failed: {said}")
    seed = seeds[at // each]
    yield Case(seed.name, at % each, "ended", 0.0, f"{signal.Signals(-code).name}: {said}")


def _work(folder: Path, seeds: list[Seed], each: int, first: int, last: int) -> None:
    """In a process of its own: read the changes, a line of JSON for each."""
    from edge_rnn_converters import conversion

    told = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    written: list[str] = []
    sys.addaudithook(lambda event, given: _audit(event, given, written))
    for seed in seeds[first // each : -(-last // each)]:  # what is imported, compiled, kept
        _read(conversion, folder / seed.name, seed, whole=True)
    with tempfile.TemporaryDirectory() as place:
        for at in range(first, last):
            case = _case(conversion, folder, Path(place), seeds[at // each], at % each, written)
            told.write(json.dumps(asdict(case)) + "\n")
            told.flush()


def _case(
    conversion: Any, folder: Path, place: Path, seed: Seed, number: int, written: list[str]
) -> Case:
    path = place / seed.name
    path.write_bytes(variant(folder, seed, number))
    written.clear()
    began = time.process_time()
    with _limits(path.stat().st_size):
        outcome, text = _outcome(conversion, path, seed, number)
    seconds = time.process_time() - began
    if written or _files(str(place)) != [seed.name]:
        outcome, text = "wrote", f"{written} {_files(str(place))}"
    path.unlink()
    return Case(seed.name, number, outcome, seconds, text)


def _audit(event: str, given: tuple[Any, ...], written: list[str]) -> None:
    """Note what is opened to be written."""
    if event == "open" and isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR):
        written.append(str(given[0]))


@contextlib.contextmanager
def _limits(size: int) -> Iterator[None]:
    """The limits that reading a file of so many bytes has, as the product's own guard has them, and
    none of the files that it may write has a byte."""
    vm = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    limits = {
        resource.RLIMIT_CPU: int(time.process_time()) + 1 + SECONDS,
        resource.RLIMIT_AS: vm + MEMORY + 8 * size,
        resource.RLIMIT_FSIZE: 0,
    }
    hard = {kind: resource.getrlimit(kind) for kind in limits}
    for kind, soft in limits.items():
        resource.setrlimit(kind, (soft, hard[kind][1]))
    try:
        yield
    finally:
        for kind, before in hard.items():
            resource.setrlimit(kind, before)


def _outcome(conversion: Any, path: Path, seed: Seed, number: int) -> tuple[str, str]:
    from edge_rnn.errors import EdgeRnnError

    try:
        _read(conversion, path, seed, whole=number % WHOLE == 0)
    except EdgeRnnError as e:
        return "refused", str(e)
    except Exception as e:
        import traceback

        where = traceback.extract_tb(e.__traceback__)[-1]
        return f"{type(e).__name__}", f"{e} in {where.filename}:{where.lineno}"
    return "model", ""


def _read(conversion: Any, path: Path, seed: Seed, whole: bool) -> None:
    from edge_rnn.validation import validate
    from edge_rnn_converters.modes import in_mode
    from edge_rnn_converters.readers import read
    from edge_rnn_converters.source import Options

    options = Options(network=seed.network)
    used, _ = in_mode(read(path, options), None)
    validate(used)
    if whole:
        conversion.convert_with_report(path, "w8a16", network=seed.network, check="auto")


def main() -> None:
    """Fuzz, and print what was found; exits with 1 if that is neither a model nor our error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--n", type=int, default=10_000, help="changed files, of all kinds together"
    )
    parser.add_argument("--only", default="", help="the family of formats, as in FAMILIES")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        folder, listed, each, first, last = json.loads(given.work)
        _work(Path(folder), [Seed(**seed) for seed in listed], each, first, last)
        return
    os.environ.setdefault("KERAS_BACKEND", "numpy")  # as in the tests
    from tests.converters.fuzz_seeds import FAMILIES

    with tempfile.TemporaryDirectory() as place:
        made = [seed for name, family in FAMILIES.items() if given.only in name
                for seed in family(Path(place))]  # fmt: skip
        found = fuzz(Path(place), made, -(-given.n // len(made)))
        for case in found.ended:
            seed = next(s for s in made if s.name == case.seed)
            print("ended:", case, command(Path(place), seed, case.number))
    for case in found.bad:
        print("bad:", case)
    for name, case in found.slowest.items():
        counts = {o: n for (s, o), n in sorted(found.outcomes.items()) if s == name}
        print(f"{name}: {counts}, slowest {case.seconds:.2f} s (number {case.number})")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{sum(found.outcomes.values())} files, {len(found.errors)} different errors, "
          f"{used.ru_utime + used.ru_stime:.0f} s of processor time")  # fmt: skip
    sys.exit(bool(found.bad))


if __name__ == "__main__":
    main()

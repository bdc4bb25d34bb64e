# Every target makes the virtual environment that it needs; nothing else has to be installed but Python 3.11 and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo
ENGINES := .engines

.DEFAULT_GOAL := help
.PHONY: help demo demo-generate check lint types imports test test-slow engines bench docs format clean

help: ## show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(BIN)/.runtime ## install, then run the founding case on a scaled-down replica in ./demo
	rm -rf $(DEMO)
	$(BIN)/overlay demo $(DEMO)

demo-generate: $(BIN)/.dev ## what a draft layer does to generation, on a small model trained here
	$(BIN)/python examples/tiny-mtp/generate.py

check: lint types imports test ## everything that CI runs

lint: $(BIN)/.dev ## style and formatting
	$(BIN)/ruff check overlay tests benchmarks docs examples
	$(BIN)/ruff format --check overlay tests benchmarks docs examples

types: $(BIN)/.dev ## mypy --strict
	$(BIN)/mypy

imports: $(BIN)/.dev ## the direction of imports
	$(BIN)/lint-imports

test: $(BIN)/.dev ## the tests, without the slow ones
	$(BIN)/pytest -q -n 2 --dist loadfile

test-slow: $(BIN)/.dev ## full-size replicas, and the laws at full depth
	HYPOTHESIS_RANDOM=1 $(BIN)/pytest -q -m slow -s

engines: $(BIN)/.dev $(ENGINES)/installed ## lint's predictions against the real loaders of vLLM, SGLang and transformers
	$(BIN)/pytest -q -m engines -rs tests/engines/real

bench: $(BIN)/.dev ## costs as ratios, measured in one run
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/linting.py
	$(BIN)/python benchmarks/remote.py

docs: $(BIN)/.dev ## write the generated pages of docs/ anew
	$(BIN)/python docs/generate.py

format: $(BIN)/.dev ## format the code
	$(BIN)/ruff check --fix-only overlay tests benchmarks docs examples
	$(BIN)/ruff format overlay tests benchmarks docs examples

clean: ## remove what the targets made
	rm -rf $(VENV) $(ENGINES) $(DEMO) build dist *.egg-info

# Where it cannot be installed, the tests are skipped with the reason.
$(ENGINES)/installed: tests/engines/real/install.sh tests/engines/real/requirements.txt | $(BIN)/python
	-tests/engines/real/install.sh $(ENGINES) $(BIN)/python

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(BIN)/.runtime: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -e .
	touch $@

$(BIN)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	touch $@ $(BIN)/.runtime

# `make demo` and `make test` do everything, set-up included. PYTHON=python3.12 chooses another interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: env demo test lint clean

env: $(VENV)/.complete

# Every package by hash but torch, whose builds differ by machine: the second install finds all but torch in place.
$(VENV)/.complete: constraints.txt pyproject.toml
	@echo 'Setting up $(VENV): a few minutes, about 3 GB.'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --no-deps --require-hashes -r constraints.txt
	$(BIN)/python -m pip install -qq --no-build-isolation --editable .
	touch $@

demo: env
	$(BIN)/audiorl demo --out demo

test: env
	$(BIN)/python -m pytest -n 2 --dist loadscope

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo build *.egg-info

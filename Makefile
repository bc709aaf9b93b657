# `make demo` and `make test` do everything, set-up included. PYTHON=python3.12 chooses another interpreter,
# EXTRA=cuda or EXTRA=tpu puts the packages of that extra into .venv as well.
PYTHON ?= python3
EXTRA ?=
VENV := .venv
BIN := $(VENV)/bin

.PHONY: env interpreter demo test lint clean

env: $(VENV)/.complete $(EXTRA:%=$(VENV)/.complete-%)

# Every package by hash but torch, whose builds differ by machine: the second install finds all but torch in place.
# Compiled on every core, where pip compiles on one; a package's examples for other Pythons are no failure.
# The mark goes first and comes last: what was cut off is made anew, for pip takes half a package for a whole one.
$(VENV)/.complete: constraints.txt pyproject.toml | interpreter
	@echo 'Setting up $(VENV): a few minutes; about 3 GB, or 7 where pip finds torch for CUDA.'
	@rm $@ 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install -qq --no-compile --no-deps --require-hashes -r constraints.txt
	$(BIN)/python -m pip install -qq --no-compile --no-build-isolation --editable .
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	@touch $@

$(VENV)/.complete-%: constraints-%.txt $(VENV)/.complete
	$(BIN)/python -m pip install -qq --no-deps --require-hashes -r $<
	@touch $@

# Said before anything is fetched. A finished .venv keeps its Python: one that is asked for has to be the same.
interpreter:
	@test -e $(VENV)/.complete || $(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 14) or \
	  sys.exit("audiorl needs Python 3.11 to 3.13; $(PYTHON) is %d.%d. Name one: make env PYTHON=..." % sys.version_info[:2])'
	@test '$(origin PYTHON)' = file -o ! -e $(VENV)/.complete || \
	  test "$$($(PYTHON) --version)" = "$$($(BIN)/python --version)" || \
	  { echo '$(VENV) has another Python than $(PYTHON): delete it first.' >&2; exit 1; }

demo: env
	$(BIN)/audiorl demo --out demo

test: env
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo build *.egg-info .mypy_cache .pytest_cache .ruff_cache

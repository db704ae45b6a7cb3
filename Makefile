# `make` alone says what there is. Needed: Python 3.11 or newer, make, git.
#
# VENV    the folder of the virtual environment; one for each Python, to have several
# PYTHON  what makes it
# ARGS    more arguments for pytest, `tracker demo`, or chaos (--seed 7)

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast check chaos bench-quick bench clean
.DELETE_ON_ERROR:

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.demo ## real vehicles on a map at http://127.0.0.1:8000/ until Ctrl-C
	@$(BIN)/tracker demo $(ARGS)

test: $(VENV)/.test ## every test but the soaks
	@$(BIN)/python -m pytest -m "not soak" $(ARGS)

test-fast: $(VENV)/.test ## every test that is not slow, in a minute
	@$(BIN)/python -m pytest -m "not slow and not soak" $(ARGS)

# ASYNC114 wants each startable function listed by name, ASYNC128 does not see that `task_status`
# may be handed on, and ASYNC124 knows no frameworks, whose
# handlers must be async. The others are off by default, and come back with any `--disable`.
check: $(VENV)/.check ## style, types, and who imports whom
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@find tracker tests bench -name '*.py' -exec $(BIN)/flake8-async \
		--disable ASYNC106,ASYNC114,ASYNC124,ASYNC128,ASYNC900,ASYNC910,ASYNC911,ASYNC912,ASYNC913 {} +
	@$(BIN)/mypy
	@$(BIN)/python -m pytest --quiet tests/test_layers.py

chaos: $(VENV)/.test ## 50 clients whose books must balance, whatever is cut, in two minutes
	@$(BIN)/python -m tests.chaos $(ARGS)

bench-quick: $(VENV)/.bench ## latency, loss and memory with 100 clients, in two minutes
	@$(BIN)/python -m bench --quick $(ARGS)

bench: $(VENV)/.bench ## the write path against its goals, beside two baselines, in 20 minutes
	@$(BIN)/python -m bench $(ARGS)

clean: ## remove the environment, caches and what was built
	@if [ -e $(VENV)/.made ]; then rm -rf $(VENV); fi
	@rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find tracker tests bench -name __pycache__ -prune -exec rm -rf {} +

# A stamp is touched only after all before it went well: what failed is tried again.

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "tracker needs Python 3.11 or newer; $(PYTHON) is:" \
			"$$($(PYTHON) --version 2>&1 || true)." \
			"Name another: make PYTHON=python3.12 …" >&2; exit 1; }
	@echo "Making the environment $(VENV) with $$($(PYTHON) --version) …"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.demo $(VENV)/.test $(VENV)/.check $(VENV)/.bench: $(VENV)/.%: pyproject.toml $(VENV)/.made
	@echo "Installing what \`$*\` needs into $(VENV), once …"
	@$(PIP_INSTALL) --editable '.[$*]'
	@touch $@

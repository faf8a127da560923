PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: help test check format
help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

.venv/installed: pyproject.toml
	@echo "Installing into .venv (about 500 MB, a minute or two, once)"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -e '.[dev]'
	@touch $@

test: .venv/installed  ## run the tests
	$(BIN)/python -m pytest

check: .venv/installed  ## lint, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check trainer tests
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed  ## rewrite the code in the house's style
	$(BIN)/ruff format trainer tests
	$(BIN)/ruff check --fix .

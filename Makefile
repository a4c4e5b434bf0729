# The commands of every day; CI calls the same ones.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
N ?= 10
SEED ?= 0
STAMP := $(VENV)/.installed
# A test that kills its process ends the run: pytest-xdist would give it to one new process after another.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder --max-worker-restart 0

.PHONY: help install demo test test-all lint format torture fuzz schema wheel clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

install: $(STAMP)  ## make .venv and install everything from constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@echo "installing into $(VENV): some minutes, without further words"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install  ## the demonstration study, from generated images to the report
	$(BIN)/snakemake --cores all

test: install  ## the tests of every day, a file per processor at a time
	$(PYTEST) -m 'not exhaustive'

test-all: install  ## all tests, those of every single row and setting, too
	$(PYTEST)

lint: install  ## formatting, style, types, layers, workflow
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

format: install  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/snakefmt Snakefile workflow

torture: install  ## N small studies under faults of every kind, each compared with an undisturbed one; SEED=… draws others
	$(BIN)/python -m tests.workflow.torture --number $(N) --seed $(SEED)

fuzz: N = 10000
fuzz: install  ## damage N files of every format and read them: no crash, no hang, only our own errors
	$(BIN)/python -m tests.fuzz.fuzz --number $(N)

schema: install  ## write the configuration's JSON schema
	$(BIN)/medseg schema > workflow/schemas/config.schema.json

wheel: install  ## build the wheel and try it in a fresh environment and an empty folder
	.ci/wheel

clean:  ## remove results, generated data and tracking of this folder
	rm -rf results data/phantoms mlflow.db* mlartifacts .snakemake

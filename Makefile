# `make help` lists the targets. ARGS are handed on: make train ARGS="--trainer.max_steps 2000"
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help train search test test-multistep test-runlab test-template test-all replay lint bench tensorboard adopt clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-15s %s\n", $$1, $$2}'

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[known]'
	touch $@

.venv/.installed-test: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[known,test,search]'
	touch $@

train: .venv/.installed ## train the default experiment; installs on first use
	$(BIN)/python scripts/train.py $(ARGS)

.venv/.installed-search: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[known,search]'
	touch $@

search: .venv/.installed-search ## search a space of recipes, as ARGS say; installs Optuna on first use
	$(BIN)/python scripts/search.py $(or $(ARGS),--help)

test: .venv/.installed-test ## run the tests; installs the test extras on first use
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

test-multistep: .venv/.installed-test ## run the tests of multistep alone
	$(BIN)/python -m pytest -n 2 --dist worksteal tests/multistep $(ARGS)

test-runlab: .venv/.installed-test ## run the tests of runlab alone
	$(BIN)/python -m pytest -n 2 --dist worksteal tests/runlab $(ARGS)

test-template: .venv/.installed-test ## run the tests of the template alone
	$(BIN)/python -m pytest -n 2 --dist worksteal --ignore tests/multistep --ignore tests/runlab $(ARGS)

.venv/.installed-loggers: .venv/.installed-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[known,loggers,databases]'
	touch $@

test-all: .venv/.installed-loggers ## run the tests, the long ones too; installs loggers and a driver of PostgreSQL on first use
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "" $(ARGS)

replay: .venv/.installed-test ## replay 200,000 updates of the notebooks' loop number for number, with both engines
	$(BIN)/python -m pytest -m "" tests/test_replay.py $(ARGS)

lint: .venv/.installed-test ## check format, rules and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

.venv-jax/.installed: benchmarks/requirements-jax.txt
	$(PYTHON) -m venv .venv-jax
	.venv-jax/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements-jax.txt
	touch $@

bench: .venv/.installed .venv-jax/.installed ## compare the speed with a notebook's loop, idiomatic Lightning and jax
	$(BIN)/python scripts/benchmark.py $(ARGS)

tensorboard: .venv/.installed ## open TensorBoard on all runs
	$(BIN)/tensorboard --logdir runs $(ARGS)

adopt: .venv/.installed-test ## turn this template into your own project: NAME=my_project
	$(PYTHON) scripts/adopt.py --name "$(NAME)" --owner "$(or $(OWNER),OWNER)"
	$(BIN)/ruff check --fix --exit-zero --quiet .
	$(BIN)/ruff format --quiet .
	rm -rf .venv src/*.egg-info

clean: ## remove the environment and all caches, but no run and no data
	rm -rf .venv .venv-jax .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist src/*.egg-info
	find src scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +

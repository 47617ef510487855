# Everything runs in .venv, which is created from requirements.lock and updated when that file changes.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/sh

PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
PIP := .venv/bin/python -m pip --disable-pip-version-check --quiet
INSTALLED := .venv/.installed
PYTEST := .venv/bin/python -m pytest
# Processes that run the tests side by side, a file at a time; 0 for none.
PYTEST_PROCESSES ?= 2
# Extra arguments of pip and pytest, as in: make test PYTEST_ARGS="-k reviews".
PIP_ARGS ?=
PYTEST_ARGS ?=
TYPED := study analysis tests benchmarks

.PHONY: help quickstart test test-studies test-all test-faults test-gpu check types docs report lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z.-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

.venv: $(INSTALLED) ## create the environment from requirements.lock

$(INSTALLED): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { \
		echo "Python 3.11 or newer is needed and was not found: install it, or name one with make PYTHON=/path/to/python."; \
		exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments: on Debian and Ubuntu, apt-get install python3-venv."; exit 1; }
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@echo "Installing the packages of requirements.lock into .venv (once; some minutes)"
	@$(PIP) install $(PIP_ARGS) -r requirements.lock
	@$(PIP) install $(PIP_ARGS) --no-deps -e .
	@touch $@

quickstart: $(INSTALLED) ## run a small study on built-in models and data, under 3 minutes
	@.venv/bin/python -m study.run --space search_spaces/quickstart.yaml

SIDE_BY_SIDE := -n $(PYTEST_PROCESSES) --dist loadfile --no-loadscope-reorder

test: $(INSTALLED) ## run the tests except slow ones and those that train whole studies
	@$(PYTEST) -m "not studies and not slow and not gpu" $(SIDE_BY_SIDE) $(PYTEST_ARGS)

test-studies: $(INSTALLED) ## run the tests that start Ray, train whole studies or run benchmarks, except slow ones
	@$(PYTEST) -m "studies and not slow and not gpu" $(SIDE_BY_SIDE) $(PYTEST_ARGS)

test-all: $(INSTALLED) ## run all tests
	@$(PYTEST) $(PYTEST_ARGS)

test-faults: $(INSTALLED) ## run the tests that kill processes, fill disks and stop servers, slow ones included
	@$(PYTEST) -m faults $(PYTEST_ARGS)

test-gpu: $(INSTALLED) ## run the tests that need a GPU
	@$(PYTEST) -m gpu $(PYTEST_ARGS)

check: $(INSTALLED) ## check format, lint, imports and types
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/lint-imports --no-logo --no-cache >.venv/imports.txt || { cat .venv/imports.txt; exit 1; }
	@$(MAKE) --no-print-directory types

docs: $(INSTALLED) ## write docs/settings.md and search_spaces/schema.json from study/settings.py
	@.venv/bin/python -m study.schema

types: $(INSTALLED)
	@.venv/bin/mypy --strict $(TYPED)

report: $(INSTALLED) ## write the report of a study: make report STUDY=studies/NAME
	@test -n "$(STUDY)" || { echo "Which study? make report STUDY=studies/NAME"; exit 2; }
	@.venv/bin/python -m analysis.report "$(STUDY)"

lock: $(INSTALLED) ## write the versions installed in .venv to requirements.lock
	@{ sed '/^[^#]/,$$d' requirements.lock; \
		.venv/bin/python -m pip --disable-pip-version-check freeze --exclude-editable \
		| sed -E -e '/^(nvidia-[^m]|cuda-|triton==|encoder-study)/d' -e 's/^(torch==[^+]*)\+.*/\1/' \
		| LC_ALL=C sort -f; } > .venv/requirements.lock
	@mv .venv/requirements.lock requirements.lock && touch $(INSTALLED)
	@grep -vc '^#' requirements.lock | sed 's/$$/ packages in requirements.lock/'

clean: ## remove .venv and caches; studies are kept
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build ./*.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

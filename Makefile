# Everything runs in .venv, which is made from requirements.lock and made again when that changes.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/sh

PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
PIP := .venv/bin/python -m pip --disable-pip-version-check --quiet
INSTALLED := .venv/.installed
PYTEST := .venv/bin/python -m pytest
# More for pip or pytest on one call: make test PYTEST_ARGS="-k reviews".
PIP_ARGS ?=
PYTEST_ARGS ?=
TYPED := study analysis tests benchmarks

.PHONY: help quickstart test test-all test-faults check types report lock clean

help: ## these lines
	@awk -F ':.*## ' '/^[a-z.-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

.venv: $(INSTALLED) ## the environment, from requirements.lock

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

quickstart: $(INSTALLED) ## a small study on built-in models and data, under 3 minutes
	@.venv/bin/python -m study.run --space search_spaces/quickstart.yaml

test: $(INSTALLED) ## the tests, but for the slow ones
	@$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-all: $(INSTALLED) ## every test
	@$(PYTEST) $(PYTEST_ARGS)

test-faults: $(INSTALLED) ## those that kill processes and take servers away, the slow ones too
	@$(PYTEST) -m faults $(PYTEST_ARGS)

check: $(INSTALLED) ## format, lint and types
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@$(MAKE) --no-print-directory types

types: $(INSTALLED)
	@.venv/bin/mypy --strict $(TYPED)

report: $(INSTALLED) ## the page of a study: make report STUDY=studies/NAME
	@test -n "$(STUDY)" || { echo "Which study? make report STUDY=studies/NAME"; exit 2; }
	@.venv/bin/python -m analysis.report "$(STUDY)"

lock: $(INSTALLED) ## write what .venv holds into requirements.lock
	@{ sed '/^[^#]/,$$d' requirements.lock; \
		.venv/bin/python -m pip --disable-pip-version-check freeze --exclude-editable \
		| sed -E -e '/^(nvidia-[^m]|cuda-|triton==|encoder-study)/d' -e 's/^(torch==[^+]*)\+.*/\1/' \
		| LC_ALL=C sort -f; } > .venv/requirements.lock
	@mv .venv/requirements.lock requirements.lock && touch $(INSTALLED)
	@grep -vc '^#' requirements.lock | sed 's/$$/ packages in requirements.lock/'

clean: ## remove .venv and caches; studies stay
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build ./*.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# make demo: set up, run a small study, print its table.   make test: set up, run all tests and checks.
.PHONY: demo test lint
.DEFAULT_GOAL := demo
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
# Twice quiet: only errors. pip's warnings are about the machine's own settings.
INSTALL := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt --editable
CHECKS := $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright && $(BIN)/lint-imports --no-cache

demo: .venv/.run
	@echo "== training five rows of experiments/demo, two seeds each; chance is 33 %"
	@$(BIN)/python ablate.py demo
	@echo "== open experiments/demo/report.html in a browser"

# The checks take what the tests leave idle, such as while processes are waited for; what they say comes last.
test: .venv/.test
	@echo "== tests, two at a time; beside them the checks of make lint"
	@nice -n 10 bash -ec '$(CHECKS)' >.venv/lint.txt 2>&1 & lint=$$!; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal; tests=$$?; \
	wait $$lint; checks=$$?; cat .venv/lint.txt; exit $$((tests || checks))

lint: .venv/.test
	@echo "== ruff, pyright and the order of the packages"
	@$(CHECKS)

.venv/.run: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	@echo "== installing into .venv (torch is large: minutes, the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) .
	@touch $@

.venv/.test: .venv/.run
	@echo "== installing what the tests need"
	$(INSTALL) '.[test]'
	@touch $@

# make demo: set up, train six necks on one question, print their table.   make test: set up, run all tests and checks.
.PHONY: demo test lint
.DEFAULT_GOAL := demo
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin

demo: .venv/.run
	@echo "== training six necks on data=context, about a minute each; chance is 25 %"
	$(BIN)/python train.py -m +recipe=demo neck=none,conv,spp,sppf,focal,focal_block
	@$(BIN)/python ablate.py --from outputs/demo

test: .venv/.test lint
	@echo "== tests, two at a time"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

lint: .venv/.test
	@echo "== ruff and pyright"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

.venv/.run: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	@echo "== installing into .venv (torch is large: minutes, the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

.venv/.test: .venv/.run
	@echo "== installing what the tests need"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	@touch $@

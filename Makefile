# Everything runs from .venv in this folder. `make setup` fills it; the other targets call it, and it does nothing the second time.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN    := .venv/bin
STAMP  := .venv/.installed
NAME   ?=
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-7s %s\n", $$1, $$2}'

setup: $(STAMP)  ## create .venv with the package and everything it needs (pinned in constraints.txt)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "the pinned versions need Python 3.11 or newer; choose one with make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -e ".[dgl,s3,delta,iceberg,serve,detached,dev]" -c constraints.txt
	@touch $@

demo: setup  ## the whole path on generated data: ingest, train, pre-train, forget, compare with a retrain; writes quickstart-output/reports/report.html
	$(BIN)/unlearnrec quickstart --output quickstart-output

test: setup  ## the tests; one file: make test ARGS=tests/cluster/config/test_config.py
	$(BIN)/python -m pytest -c tests/pytest.ini $(if $(ARGS),$(ARGS),tests)

# The root is the package, so mypy needs a folder in which it goes by its name, whatever this clone's folder is called.
lint: setup  ## ruff and mypy
	$(BIN)/ruff check .
	@mkdir -p .mypy_cache/path && ln -sfn ../.. .mypy_cache/path/unlearnrec
	MYPYPATH=.mypy_cache/path $(BIN)/mypy -p unlearnrec

bench: setup  ## a benchmark: make bench NAME=... ARGS="..."; without NAME, which there are
	$(BIN)/unlearnrec bench $(NAME) $(ARGS)

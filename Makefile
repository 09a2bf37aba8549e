# Everything runs from .venv in this folder. `make demo` and `make test` fill it with what they need, and do nothing the second time.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN    := .venv/bin
DEMO   := .venv/.demo
STAMP  := .venv/.installed
EXTRAS := dgl,s3,delta,iceberg,serve,detached,docs,dev
CPU    ?=
NAME   ?=
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench docs

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-7s %s\n", $$1, $$2}'

setup: $(DEMO)  ## create .venv with the package and what the demo needs (pinned in constraints.txt); CPU=1: PyTorch's CPU build from pytorch.org

$(DEMO): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "the pinned versions need Python 3.11 or newer; choose one with make PYTHON=...")'
	@echo "Setting up .venv, once: about 400 MB to download and 1.7 GB on disk with PyTorch's CPU build, which takes about 3 minutes;"
	@echo "several GB where pip chooses PyTorch's GPU build (CPU=1 avoids that). pip shows each package below."
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(if $(CPU),$(BIN)/python -m pip install torch -c constraints.txt --index-url https://download.pytorch.org/whl/cpu)
	$(BIN)/python -m pip install -e . -c constraints.txt
	@touch $@

$(STAMP): $(DEMO)
	@echo "Adding what the tests and linters need: about 190 MB to download and .8 GB on disk more."
	$(BIN)/python -m pip install -e ".[$(EXTRAS)]" -c constraints.txt
	@touch $@

demo: setup  ## the whole path on generated data: ingest, train, pre-train, forget, compare with a retrain; writes quickstart-output/reports/report.html
	$(BIN)/unlearnrec quickstart --output quickstart-output

test: $(STAMP)  ## the tests; one file: make test ARGS=tests/cluster/config/test_config.py
	$(BIN)/python -m pytest -c tests/pytest.ini $(if $(ARGS),$(ARGS),tests --numprocesses=2 --dist=loadfile)

# The root is the package, so mypy needs a folder in which it goes by its name, whatever this clone's folder is called.
lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check .
	@mkdir -p .mypy_cache/path && ln -sfn ../.. .mypy_cache/path/unlearnrec
	MYPYPATH=.mypy_cache/path $(BIN)/mypy -p unlearnrec

bench: $(STAMP)  ## ratios of everything beside the committed ones, in three minutes; one benchmark: make bench NAME=... ARGS="..."
	$(BIN)/unlearnrec bench $(or $(NAME),regression) $(ARGS)

docs: $(STAMP)  ## the documents as a site in build/site, with the reference made from the code
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "build/site/index.html; with the search: $(BIN)/python -m http.server -d build/site"

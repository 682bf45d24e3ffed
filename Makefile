# Everything runs in a virtual environment of its own: `make quickstart` needs only Python and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: help quickstart test test-all colabs docs docs-serve lint types format clean

help:
	@echo "make quickstart   train small models of both papers and print their tables, on CPU"
	@echo "make test         every fast test (PYTHON=python3.12 chooses the interpreter)"
	@echo "make test-all     the slow ones too"
	@echo "make colabs       execute every notebook of colabs/"
	@echo "make docs         build the documentation site in site/; docs-serve shows it while you write"
	@echo "make lint types   ruff, basedpyright"

# One stamp per set of extras; packages are installed again when setup.py changes.
$(VENV)/%.stamp: setup.py
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with PYTHON=python3.12.")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@

quickstart: $(VENV)/quickstart.stamp
	$(BIN)/python -m experiments.quickstart

test: $(VENV)/test.stamp
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow" tests

test-all: $(VENV)/test.stamp
	$(BIN)/python -m pytest -n $(WORKERS) tests

colabs: $(VENV)/test.stamp
	$(BIN)/python -m colabs

docs: $(VENV)/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

docs-serve: $(VENV)/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/test.stamp
	$(BIN)/basedpyright --pythonpath $(BIN)/python

format: $(VENV)/test.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .ruff_cache

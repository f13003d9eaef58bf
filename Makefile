# `make demo` and `make test` are all a fresh machine with Python 3.11 needs; each installs what is missing into .venv.
PYTHON ?= python3.11
BIN := .venv/bin
export OMP_WAIT_POLICY ?= passive
export OMP_NUM_THREADS ?= 1

.PHONY: demo test check clean install
.DEFAULT_GOAL := test

# Installed again only when the pins or the project file change.
.venv/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

install: .venv/installed

demo: .venv/installed
	$(BIN)/ray-lidarseg demo --out demo

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(BIN)/pytest tests -n 2

clean:
	rm -rf .venv demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

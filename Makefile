# make setup | train | test | test-slow | lint. Only Python 3.10 or newer is needed.
PYTHON ?= python3
VENV ?= .venv
# e.g. PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu" for a torch without CUDA
PIP_FLAGS ?=
BIN := $(VENV)/bin

.PHONY: setup train test test-slow lint clean

setup: $(VENV)/.installed

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q $(PIP_FLAGS) -c constraints.txt torch
	$(BIN)/python -m pip install -q $(PIP_FLAGS) -c constraints.txt -e '.[test]'
	touch $@

train: setup
	$(BIN)/pods train pendulum2d-stop

test: setup lint
	$(BIN)/python -m pytest -n 2

test-slow: setup
	$(BIN)/python -m pytest -n 2 -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) build *.egg-info

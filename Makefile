# Two commands on a fresh Debian 12, as root: `make demo` and `make test`. Both prepare the machine
# first (tests/lab/setup.sh); the rest is for those who work on pbxctl.
PYTHON := .venv/bin/python
export PATH := $(CURDIR)/.venv/bin:$(PATH)
PYTEST_ARGS ?=

.PHONY: setup demo test lint bench lock

setup:
	@tests/lab/setup.sh

demo: setup
	@$(PYTHON) -m tests.lab.demo

test: setup lint
	@$(PYTHON) -m pytest -n 3 --dist loadfile $(PYTEST_ARGS)

lint: setup
	@ruff check .
	@ruff format --check .
	@$(PYTHON) -m mypy

# One benchmark: make bench NAME=placement
bench: setup
	@$(PYTHON) -m bench $(NAME)

# Writes requirements.lock anew from pyproject.toml, with the versions of today.
lock:
	@tests/lab/lock.sh

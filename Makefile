# Two commands on a fresh Debian 12, as root: `make demo` and `make test`. Both prepare the machine
# first (tests/lab/setup.sh); the rest is for those who work on pbxctl.
PYTHON := .venv/bin/python
export PATH := $(CURDIR)/.venv/bin:$(PATH)
PYTEST_ARGS ?=

.PHONY: setup demo test lint bench lock dashboards pages pictures screens

setup:
	@tests/lab/setup.sh

demo: setup
	@$(PYTHON) -m tests.lab.demo

# Two sweeps: those that share the machine, then those that measure it. 5: -k chose none of this sweep.
test: setup lint
	@$(PYTHON) -m pytest -n 2 --dist loadfile -m "not alone" $(PYTEST_ARGS) || [ $$? -eq 5 ]
	@$(PYTHON) -m pytest -m alone $(PYTEST_ARGS) || [ $$? -eq 5 ]

lint: setup
	@ruff check .
	@ruff format --check .
	@$(PYTHON) -m mypy
	@$(PYTHON) -m mypy docker/pbxctl/hand_out.py docker/pbxctl/answers.py

# One benchmark: make bench NAME=placement
bench: setup
	@$(PYTHON) -m bench $(NAME)

# Writes deploy/grafana/json from deploy/grafana/dashboards.
dashboards: setup
	@$(PYTHON) -m deploy.grafana.dashboards

# Writes docs/api.md and the man page from the code.
pages: setup
	@$(PYTHON) -m deploy.pages

# Runs a fleet and keeps what the commands print in docs/screens.
screens: setup
	@unshare --uts sh -c "hostname control-1 && exec $(PYTHON) -m tests.lab.screens"

# Runs a fleet for a minute and draws docs/pictures from what Prometheus saw of it.
pictures: setup
	@$(PYTHON) -m tests.lab.pictures

# Writes requirements.lock anew from pyproject.toml, with the versions of today.
lock:
	@tests/lab/lock.sh

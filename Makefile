# Two commands set everything up: `make demo` and `make test`. Both work in a virtual environment of their own.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo-run
# A CPU build of torch keeps the download small; set TORCH=torch for the build of your GPU.
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
# Test processes side by side; each takes up to 2.5 GB of memory.
JOBS ?= 2

# What Qt and a screenless X server need on Debian, for the viewer's tests.
DEBIAN_VIEWER := xvfb libegl1 libgl1 libgl1-mesa-dri libopengl0 libxkbcommon-x11-0 libxcb-cursor0 libxcb-icccm4 \
	libxcb-image0 libxcb-keysyms1 libxcb-randr0 libxcb-render-util0 libxcb-shape0 libxcb-xfixes0 libxcb-xkb1 \
	libdbus-1-3 libfontconfig1 libglib2.0-0

.PHONY: help demo test lint setup setup-dev clean

help:
	@echo "make demo   write a synthetic slide, detect nuclei on it, show where the results are ($(DEMO)/)"
	@echo "make test   lint, types, import rules and tests"
	@echo "make clean  remove the virtual environment and the demo's results"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; say which one: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || $(MAKE) --no-print-directory debian-venv
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip

# Debian keeps the venv module in a package of its own.
.PHONY: debian-venv
debian-venv:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing python3-venv"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null; \
	else \
		echo "Python's venv module is missing. Install it first: sudo apt-get install python3-venv"; exit 1; \
	fi

$(VENV)/.torch: | $(BIN)/python
	@echo "Installing torch ($(TORCH))"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH_INDEX) "$(TORCH)"
	@touch $@

$(VENV)/.base: pyproject.toml $(VENV)/.torch
	@echo "Installing napari-qwenvl"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.base
	@echo "Installing what the tests need"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

setup: $(VENV)/.base

setup-dev: $(VENV)/.dev

# The viewer's tests run real Qt under Xvfb. Without these packages they are skipped, and say so.
.PHONY: debian-viewer
debian-viewer:
	@if ! command -v dpkg >/dev/null; then \
		command -v Xvfb >/dev/null || echo "Xvfb is missing: the viewer's tests will be skipped."; \
	else \
		missing=$$(for p in $(DEBIAN_VIEWER); do dpkg -s $$p >/dev/null 2>&1 || printf '%s ' $$p; done); \
		if [ -z "$$missing" ]; then :; \
		elif [ "$$(id -u)" = 0 ]; then \
			echo "Installing Debian packages of the viewer's tests: $$missing"; \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing >/dev/null; \
		else \
			echo "The viewer's tests will be skipped. They need: sudo apt-get install $$missing"; \
		fi; \
	fi

demo: setup
	@$(BIN)/qwenvl demo -o $(DEMO)

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint debian-viewer
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

clean:
	rm -rf $(VENV) $(DEMO)

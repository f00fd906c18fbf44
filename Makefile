# `make demo` and `make test` set up everything they need with pip in .venv; nothing but Python 3.11 or later is asked for.
# Another interpreter: `make test PYTHON=python3.12`. A CPU build of torch where the index offers CUDA first:
# `PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= demo-output
# setuptools warns of editable installs in general, which is no news here.
PIP := PYTHONWARNINGS=ignore $(BIN)/python -m pip --no-input
PYTEST_ARGS ?=
# Two files at a time; `make test PYTEST="python -m pytest"` for one.
PYTEST := python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
CONSTRAINTS := platform/deploy/constraints.txt
CODE := stmp platform jobs serving tests benchmarks docs

.DEFAULT_GOAL := help
.PHONY: help demo test pandas3 lint format docs pin picture screenshot clean

help:  ## this list
	@grep -hE '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/.demo  ## real store data in, and a trained, backtested, registered model and its forecasts out
	$(BIN)/stmp demo --out $(OUT)

test: lint pandas3  ## lint, types, import rules, then all tests: unit, integration, model, e2e
	$(BIN)/$(PYTEST) $(PYTEST_ARGS)

pandas3: $(VENV)/.pandas3  ## the unit tests once more, with pandas 3 in place of the pandas 2.3 that statsforecast asks for
	PYTHONPATH=$(CURDIR)/$(VENV)/pandas3 $(BIN)/$(PYTEST) -q -o addopts="--strict-markers --import-mode=importlib" --disable-warnings tests/unit

lint: $(VENV)/.dev  ## ruff, mypy and import-linter
	@mkdir -p build
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/lint-imports --no-cache > build/imports.log || (cat build/imports.log; exit 1)
	$(BIN)/mypy

format: $(VENV)/.dev  ## let ruff mend what it can
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

docs: $(VENV)/.dev  ## write what is generated: docs/configuration.md
	$(BIN)/python docs/generate.py

pin: $(VENV)/bin/python  ## resolve all dependencies anew and write platform/deploy/constraints.txt
	$(BIN)/python platform/deploy/pin.py

picture: demo  ## the README's picture, from the demo's report
	cp $(OUT)/run/report/forecasts.png docs/images/forecast.png

screenshot: $(VENV)/.dev  ## the picture of the planner's page, from a made-up city (5 minutes; needs Chromium)
	$(BIN)/python docs/page_picture.py build/page

clean:  ## remove .venv, caches and the demo's output
	rm -rf $(VENV) build dist $(OUT) *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed; this is $$($(PYTHON) --version). Try: make PYTHON=python3.11 ..."; exit 1; }
	@echo "==> Making a virtual environment in $(VENV)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade pip

# Stamps: installed once, and again when the dependencies change.
$(VENV)/.demo: pyproject.toml $(CONSTRAINTS) | $(VENV)/bin/python
	@echo "==> Installing stmp-platform and what the demo needs into $(VENV) (about 2 GB, a minute or two)"
	$(PIP) install --quiet --editable '.[demo]' --constraint $(CONSTRAINTS)
	@touch $@

$(VENV)/.dev: pyproject.toml $(CONSTRAINTS) | $(VENV)/bin/python
	@echo "==> Installing stmp-platform, the demo's needs and the test tools into $(VENV) (about 2 GB, a minute or two)"
	$(PIP) install --quiet --editable '.[dev]' --constraint $(CONSTRAINTS)
	@touch $@ $(VENV)/.demo

$(VENV)/.pandas3: $(VENV)/.dev
	$(PIP) install --quiet --upgrade --no-deps --target $(VENV)/pandas3 'pandas>=3,<4'
	@touch $@

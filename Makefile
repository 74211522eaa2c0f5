# `make demo` and `make test` need Python 3.11 to 3.13 and make, and nothing else.

PYTHON ?= $(shell for python in python3.12 python3.13 python3.11 python3.14 \
  python3 python; do \
  $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' \
  2>/dev/null && echo $$python && break; done)
VENV ?= .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
WORKDIR ?= runs/digits
# Of `make bench`: cpu or gpu.
DEVICE ?= cpu

# What has to pass with the core dependencies alone.
CORE_TESTS := tests/losses tests/information tests/kernels \
  tests/flow_test.py tests/schedules_test.py tests/import_test.py tests/extra_test.py
WHEEL := build/wheel

.PHONY: demo test test-fast wheel-test check format bench docs docs-browser docs-check \
  colab clean help

help:
	@echo "make demo        run the whole method on handwritten digits, into $(WORKDIR)"
	@echo "make test        everything that has to pass: linters, types, layers, tests"
	@echo "make test-fast   the quick tests only, for daily work: pytest -m 'not slow'"
	@echo "make wheel-test  tests of the losses against the wheel in a bare environment"
	@echo "make docs        the documentation as a site, in build/site"
	@echo "make docs-check  the site in a headless Chromium; make docs-browser installs one"
	@echo "make check       linters, types and layers only"
	@echo "make format      format the code"
	@echo "make bench       one training step against PyTorch (installs PyTorch); DEVICE=gpu on a GPU"
	@echo "make colab       what pip would install on Colab and Kaggle today (needs network)"
	@echo "make clean       remove $(VENV), build and caches"

demo: $(INSTALLED)
	$(RUN) -m flowkd_jax train information_flow --dataset=digits --workdir=$(WORKDIR)

test: check
	$(RUN) -m pytest -n auto --dist loadfile --quiet --durations=10

# For daily work; `make test` is what has to pass.
test-fast: $(INSTALLED)-dev
	$(RUN) -m pytest -n auto --dist loadfile --quiet -m "not slow"

# Tests and settings are copied to where the sources are not.
wheel-test: need-python
	rm -rf $(WHEEL)
	$(PYTHON) -m venv $(WHEEL)/venv
	$(WHEEL)/venv/bin/python -m pip install --quiet --upgrade pip
	$(WHEEL)/venv/bin/python -m pip wheel --quiet --no-deps --wheel-dir $(WHEEL) .
	$(WHEEL)/venv/bin/python -m pip install --quiet $(WHEEL)/*.whl --group test
	cp -r tests pyproject.toml $(WHEEL)
	cd $(WHEEL) && venv/bin/python -m pytest -n auto --dist loadfile --quiet $(CORE_TESTS)

check: $(INSTALLED)-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/basedpyright
	$(VENV)/bin/lint-imports --no-logo

format: $(INSTALLED)-dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# Strictly: a warning, such as a link that leads nowhere, is an error.
docs: $(INSTALLED)-dev
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build

# Both need playwright, which nothing else needs. Without a browser docs-check fails.
docs-browser: $(INSTALLED)-docs-check
	$(RUN) docs/_browser.py --install

docs-check: docs $(INSTALLED)-docs-check
	$(RUN) docs/_browser.py

$(INSTALLED)-docs-check: $(INSTALLED)
	$(RUN) -m pip install --quiet --group docs-check
	touch $@

# JAX finds a GPU only with its plugin for CUDA; PyTorch comes with its own.
JAX_FOR_gpu := "jax[cuda13]"

bench: $(INSTALLED)
	$(RUN) -m pip install --quiet --editable ".[train,benchmark]" $(JAX_FOR_$(DEVICE))
	$(RUN) -m experiments.benchmarks.training_step --device=$(DEVICE)

.PHONY: need-python
need-python:
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed and was not found; \
	install it, or say where it is: make PYTHON=/path/to/python3.12"; exit 1; }

$(RUN): | need-python
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml | $(RUN)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --editable ".[train]"
	touch $@

$(INSTALLED)-dev: $(INSTALLED)
	$(RUN) -m pip install --quiet --group dev
	touch $@

# Writes tests/colab/colab.json again; needs python3.12 and python3.13 beside each other.
colab: $(INSTALLED)-dev
	rm -rf build/colab
	git clone --quiet https://github.com/googlecolab/backend-info build/colab
	$(RUN) -m tests.colab.record build/colab

clean:
	rm -rf $(VENV) build .pytest_cache .ruff_cache .hypothesis .import_linter_cache

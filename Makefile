# The main entry point. `make` or `make help` lists the targets.
#
# Every target that runs something first makes sure that .venv has exactly the packages of
# environment.lock.yml, going by the file's content, not its modification time.

# Variables to set on the command line: make test PYTEST_ARGS="-k floors"; make tables STUDIES=cifar100
PYTHON ?= $(shell python3.11 -c "" 2>/dev/null && echo python3.11 || echo python3)
INSTALLER ?= uv
CORES ?= all
PYTEST_WORKERS ?= 2
PYTEST_ARGS ?=
STUDIES ?=
SNAKEMAKE_ARGS ?=
UPGRADE ?=

LOCK := environment.lock.yml
VENV := .venv
BIN := $(VENV)/bin
INSTALLED_LOCK := $(VENV)/installed.lock.yml
INSTALLED_PROJECT := $(VENV)/installed.pyproject.toml

PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
# --no-deps: the lock is complete. --no-build-isolation: build dependencies of source archives come
# from the lock, too, instead of being downloaded unpinned.
PIP_INSTALL := $(PIP) install --require-hashes --no-deps --no-build-isolation
# --compile-bytecode: every job imports PyTorch, which takes half the time with bytecode.
# --system-certs: trust the system's certificates as pip does, for instance a proxy's.
UV_SYNC := $(BIN)/uv pip sync --compile-bytecode --system-certs --require-hashes --no-build-isolation --python $(BIN)/python
LOCKED := $(BIN)/python tools/lock.py --lock $(VENV)/pending.lock.yml requirements
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile

PACKAGES_STAND := cmp -s $(LOCK) $(INSTALLED_LOCK) && $(BIN)/python -c "" 2>/dev/null
PROJECT_STANDS := cmp -s pyproject.toml $(INSTALLED_PROJECT)

# Only one make at a time may build the environment, and only one may run the graph.
ALONE := $(PYTHON) tools/alone.py
GRAPH_ALONE := $(ALONE) .snakemake.lock
SNAKEMAKE := $(BIN)/snakemake --cores $(CORES)
# Put these after the target, which `--config` would otherwise take for one of its settings.
SNAKEMAKE_OPTIONS := $(if $(STUDIES),--config studies='[$(STUDIES)]') $(SNAKEMAKE_ARGS)

define CHECK_OPTIONS
{ $(PYTHON) -c "import sys; sys.exit(sys.version_info[:2] != (3, 11))" 2>/dev/null || { echo \
    "PYTHON=$(PYTHON): not a Python 3.11; install one, or name it: make PYTHON=/path/to/python3.11" \
    >&2; exit 2; }; } && \
case "$(INSTALLER)" in uv | pip) ;; *) echo \
    "INSTALLER=$(INSTALLER): no such installer, allowed: uv, pip; choose one of them" >&2; exit 2;; esac
endef

# The rules' `hamjepa-audit` and `python` must be the environment's, with its packages only.
export PATH := $(CURDIR)/$(BIN):$(PATH)
unexport PYTHONPATH

.DEFAULT_GOAL := help
.PHONY: help environment tables figures report restore test test-all lint lock clean-environment
.PHONY: build packages project pages

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-18s %s\n", $$1, $$2}' Makefile

environment: ## build .venv from environment.lock.yml, unless it is up to date
	@{ $(PACKAGES_STAND) && $(PROJECT_STANDS); } || { $(CHECK_OPTIONS) && \
	    echo "building $(VENV)" && \
	    $(ALONE) $(VENV).lock $(MAKE) --no-print-directory build; }

tables: environment ## run the studies (STUDIES=cifar100,digits) and write results/tables
	$(GRAPH_ALONE) $(SNAKEMAKE) results/tables $(SNAKEMAKE_OPTIONS)

figures: environment ## run the studies and write results/figures
	$(GRAPH_ALONE) $(SNAKEMAKE) results/figures $(SNAKEMAKE_OPTIONS)

report: environment ## write results/report: the HTML page, and Snakemake's own report
	$(GRAPH_ALONE) $(MAKE) --no-print-directory pages

restore: environment ## after `dvc pull`: set the times of the results, so that none is remade
	$(BIN)/dvc checkout
	$(BIN)/hamjepa-audit restore

test: environment ## run the tests, without those marked slow
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-all: environment ## run all tests
	$(PYTEST) $(PYTEST_ARGS)

lint: environment ## check style, types and the lock
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/python tools/lock.py check --installed

lock: ## pin the requirements of pyproject.toml; UPGRADE=1 takes the newest versions
	@$(or $(wildcard $(BIN)/python),$(PYTHON)) tools/lock.py make $(if $(UPGRADE),--upgrade)

clean-environment: ## remove .venv
	rm -rf $(VENV) $(VENV).lock

# The part of `report` that runs under the graph's lock. A killed Snakemake leaves marks of the jobs
# that it was running. The graph does without them, because no file is ever incomplete, but
# `--report` refuses marked files, whatever `ignore-incomplete` in the profile says.
pages:
	$(SNAKEMAKE) results/report $(SNAKEMAKE_OPTIONS)
	@rm -rf .snakemake/incomplete
	$(SNAKEMAKE) --report results/report/workflow.html results/report $(SNAKEMAKE_OPTIONS)

# The part of `environment` that runs under a lock. Each half writes its marker file last, so that an
# unfinished environment never counts as complete; the marker is a copy of the file installed from.
build:
	@{ $(PACKAGES_STAND); } || $(MAKE) --no-print-directory packages
	@$(PROJECT_STANDS) || $(MAKE) --no-print-directory project

packages:
	rm -f $(INSTALLED_LOCK) $(INSTALLED_PROJECT)
	$(PYTHON) -m venv --clear $(VENV)
	@cp $(LOCK) $(VENV)/pending.lock.yml
	@$(LOCKED) pip setuptools wheel > $(VENV)/first.txt
	@$(LOCKED) uv > $(VENV)/uv.txt
	@$(LOCKED) > $(VENV)/requirements.txt
	$(PIP_INSTALL) --quiet -r $(VENV)/first.txt
	@if [ "$(INSTALLER)" = uv ] && $(PIP_INSTALL) --quiet -r $(VENV)/uv.txt && \
	    { echo "$(UV_SYNC)"; $(UV_SYNC) $(VENV)/requirements.txt; }; then :; else \
	    [ "$(INSTALLER)" = pip ] || echo "uv can't install the packages here; trying pip" >&2; \
	    echo "$(PIP_INSTALL)"; $(PIP_INSTALL) -r $(VENV)/requirements.txt; fi
	$(PIP) check
	$(BIN)/python tools/lock.py --lock $(VENV)/pending.lock.yml check --installed
	@mv $(VENV)/pending.lock.yml $(INSTALLED_LOCK)

project:
	@rm -f $(INSTALLED_PROJECT)
	@cp pyproject.toml $(VENV)/pending.pyproject.toml
	$(PIP) install --quiet --no-index --no-deps --no-build-isolation --editable .
	@mv $(VENV)/pending.pyproject.toml $(INSTALLED_PROJECT)

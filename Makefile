# georeg: two commands are all you need: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
LAB ?= .lab
JOBS ?= 2
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-matrix matrix contract lint format lab lab-down notebook notebooks schema versions lock clean

help: ## show what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# One environment for everything, from the lock alone: versions and hashes are checked.
$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(VENV)/.installed ## the lab comes up, both registries are migrated, the record is shown
	@BIN=$(BIN) LAB=$(LAB) sh tools/demo.sh

test: $(VENV)/.installed ## all tests
	@BIN=$(BIN) JOBS=$(JOBS) sh tools/test.sh $(PYTEST_ARGS)

contract: $(VENV)/.installed ## the stand-ins held to every recording, and a real registry if GEOREG_REGISTRY_BINARY names one: a table
	@$(BIN)/python tools/contract_table.py -- -n $(JOBS) --dist loadfile

test-matrix: $(VENV)/.installed ## what `make test` leaves out: every release, method and number of nodes
	@BIN=$(BIN) JOBS=$(JOBS) MARKS=matrix sh tools/test.sh $(PYTEST_ARGS)

matrix: $(VENV)/.installed ## scenario 5 for releases × methods × nodes, each in a lab of its own: a table (MATRIX_ARGS="--all")
	@$(BIN)/python tools/matrix.py $(MATRIX_ARGS)

lint: $(VENV)/.installed ## ruff, mypy, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed ## rewrite the code in the house style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lab: $(VENV)/.installed ## start the rehearsal sites and leave them running (`make lab-down` ends them)
	$(BIN)/georeg lab up --dir $(LAB)

lab-down: $(VENV)/.installed ## stop the rehearsal sites and remove them
	$(BIN)/georeg lab down --dir $(LAB) --purge

notebook: lab ## JupyterLab opened on the notebooks, with the lab up
	$(BIN)/jupyter lab notebooks

notebooks: $(VENV)/.installed ## run every notebook as a plan on a fresh lab and keep its outputs in the repository
	$(BIN)/python tools/refresh_notebooks.py

schema: $(VENV)/.installed ## write the JSON Schemas of the parameters
	$(BIN)/python -m georeg_nb.parameters schema

versions: $(VENV)/.installed ## write docs/versions.md from the table of differences
	$(BIN)/python tools/versions_page.py

# The lock covers all extras, every platform and Python from 3.11 on; it holds no addresses.
lock: ## pin the newest versions that pyproject.toml allows
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet uv
	.venv-lock/bin/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
	  --no-annotate --no-header --no-emit-index-url --no-emit-find-links --upgrade --quiet --output-file requirements.lock
	rm -rf .venv-lock

clean: ## remove what was built here (records are kept)
	rm -rf $(VENV) .venv-lock .pytest_cache .mypy_cache .ruff_cache .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

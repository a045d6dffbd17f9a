# Everything starts here. `make` lists what there is; each target does its own set-up.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help setup demo benchmark test soak lint compare serve lab clean constraints

PYTHON ?= python3
ROWS ?= 500000
RUNS ?= 5
SIZES ?= 10000
MODEL ?= data/mlp.keras
BIN := .venv/bin
export TF_CPP_MIN_LOG_LEVEL ?= 3

help: ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

setup: .venv/installed ## make .venv and install everything (the others do it when needed)

.venv/installed: pyproject.toml constraints.txt server/requirements.txt notebooks/requirements.txt tests/requirements.txt ruo/paper/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Setting up .venv: a minute or two the first time ..."
	@$(PYTHON) -m venv .venv || { echo "Python's venv is missing; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --prefer-binary -c constraints.txt -e '.[server,notebooks,paper,test]'
	@touch $@

demo: data/.rows-$(ROWS) ## a test set of ROWS (500000) rows and two models, in data

data/.rows-$(ROWS): | .venv/installed
	@echo "Making the demo: $(ROWS) rows and two models ..."
	@rm -f data/.rows-*
	@$(BIN)/python -m ruo demo --rows $(ROWS) --out data
	@touch $@

benchmark: setup demo ## how many rows should a request carry? notebook, report and figure in results/benchmark
	@$(BIN)/python -m ruo.report notebooks/benchmark.ipynb --results results/benchmark \
	  -p testset data/testset.csv -p model $(MODEL) -p runs $(RUNS)

compare: setup demo ## the 2023 system, ruo and no network at all, side by side (SIZES=all for all request sizes)
	@$(BIN)/python -m ruo.compare --testset data/testset.csv --model $(MODEL) --sizes $(SIZES) --runs $(RUNS) --results results/compare

test: setup ## all tests a newcomer needs, notebooks included (under five minutes)
	@$(BIN)/python -m pytest

soak: setup ## long fault, load and browser tests
	@$(BIN)/python -m pytest -m soak --timeout 1200

lint: setup ## style, types and the version
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -c "import re, tomllib; v = tomllib.load(open('pyproject.toml', 'rb'))['project']['version']; \
	  top = re.search(r'^## \[(.+?)\]', open('CHANGELOG.md').read(), re.M)[1]; \
	  assert v == top, f'CHANGELOG.md ends at {top}, pyproject.toml says {v}'"

serve: setup $(if $(filter data/%,$(MODEL)),demo) ## serve MODEL (data/mlp.keras) on port 8000
	@MODEL_PATH=$(MODEL) $(BIN)/gunicorn -c server/gunicorn.conf.py server:app

lab: setup ## open the notebooks in JupyterLab
	@$(BIN)/jupyter lab notebooks

constraints: ## pin the newest versions anew in constraints.txt and environment.yml
	@rm -rf .venv-pins && $(PYTHON) -m venv .venv-pins
	@.venv-pins/bin/python -m pip install --quiet --disable-pip-version-check -e '.[server,notebooks,paper,test]' openvino
	@{ sed -n '/^#/p' constraints.txt; .venv-pins/bin/python -m pip freeze --exclude-editable; } > constraints.new
	@mv constraints.new constraints.txt && rm -rf .venv-pins

clean: ## remove .venv, data and results
	@rm -rf .venv data results build *.egg-info .pytest_cache .mypy_cache .ruff_cache

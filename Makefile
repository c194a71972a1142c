# The environment is .venv in this folder. Every target makes it first where it is missing or pyproject.toml is newer.
#   make demo                                       the main job on rendered data, no download
#   make test ARGS="-k crd"                         some of the tests
#   make docs                                       the documentation site, into site/
#   make gpu                                        measurements and tests that need a GPU, in at most eight minutes
#   make gpu WHEELS=folder                          the same with a bare PyTorch and a folder of wheels
#   make gpu ARGS=--cpu-rehearsal                   all of that, small, on a CPU
#   make setup TORCH="torch==2.14.1 torchvision==0.29.1"   another torch than the newest
#   make setup PYTHON=python3.12                    another interpreter than python3

PYTHON ?= python3
TORCH ?= torch torchvision
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
VENV_DOCS := .venv-docs
BIN_DOCS := $(VENV_DOCS)/bin
STAMP := $(VENV)/.set-up
# Without --no-compile pip spends minutes on bytecode of modules that nothing here imports.
PIP_FLAGS := --quiet --disable-pip-version-check --no-compile

# Threads that wait by spinning take the cores from the tests' other processes.
export OMP_WAIT_POLICY := passive
export NO_ALBUMENTATIONS_UPDATE := 1
export NO_MKDOCS_2_WARNING := 1
# Bytecode is kept: without it every process of a test would compile torch and its friends again.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup demo test gpu lint types format docs clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("contrastill needs Python 3.11 or newer: make PYTHON=/path/to/python3" if sys.version_info < (3, 11) else 0)'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_FLAGS) $(TORCH)
	$(BIN)/python -m pip install $(PIP_FLAGS) --editable '.[test]'
	@touch $@

demo: setup
	$(BIN)/contrastill demo $(ARGS)

test: setup
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

# With the interpreter whose PyTorch knows the GPU: that of .venv, or else PYTHON.
gpu: PYTHON_GPU = $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
gpu:
	$(if $(WHEELS),$(PYTHON_GPU) -m pip install --no-index -f $(WHEELS) -r benchmarks/gpu_requirements.txt)
	$(PYTHON_GPU) benchmarks/gpu.py $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/python -m pytest tests/test_style.py -k types

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site's tools have an environment of their own, as they read the sources and need neither torch nor the rest.
docs:
	@$(BIN_DOCS)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV_DOCS)
	@$(BIN_DOCS)/python -c 'import tomllib; print("\n".join(tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"]))' > $(VENV_DOCS)/docs.txt
	$(BIN_DOCS)/python -m pip install $(PIP_FLAGS) --requirement $(VENV_DOCS)/docs.txt
	$(BIN_DOCS)/python -m mkdocs build --strict $(ARGS)

# The environment stays: remove .venv by hand to start from nothing.
clean:
	rm -rf build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -not -path './$(VENV_DOCS)/*' -prune -exec rm -rf {} +

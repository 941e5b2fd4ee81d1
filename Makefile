# Everything is set up on the first call: a virtual environment in .venv, pinned packages, the package.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The CPU build; set TORCH= to keep a build of your own (for a GPU) that is already in the environment
TORCH ?= torch==2.13.0
WORKERS ?= 2

.PHONY: design test quick lint docs-check clean

design: $(READY)
	$(BIN)/payoff design airfoils --out runs/airfoils --overwrite

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

quick: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"payoff needs Python 3.11 or newer, $(PYTHON) is {v.major}.{v.minor}: call make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH),$(BIN)/python -m pip install --quiet "$(TORCH)")
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[airfoils,molecules,dev]"
	@touch $(READY)

clean:
	rm -rf $(VENV) build dist src/*.egg-info

# `make help` lists what there is. Everything is installed into .venv; nothing else on the machine changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNS := runs
PYTEST := env OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
# ruff takes a second; mypy a minute, so it runs while the tests wait for processes.
BESIDE_MYPY := sh scripts/beside_mypy.sh $(BIN)

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-slow test-all test-full gpu lint format wheel clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(VENV)/installed ## create .venv and install ConvAtlas with its tested versions

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "PYTHON=$(PYTHON): Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV)
	@echo "Installing: PyTorch alone is a download of several gigabytes, so this takes some minutes …"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

quickstart: install ## train, evaluate and show a network on the embedded images (3 minutes on 2 cores)
	@sh scripts/quickstart.sh $(BIN) $(RUNS)

test: install ## check style and types, and run the tests
	$(BESIDE_MYPY) $(PYTEST) -m "not slow and not full"

test-slow: install ## run the tests that take minutes
	$(PYTEST) -m "slow and not full"

test-all: install ## check style and types, and run both kinds of tests at once, as CI does
	$(BESIDE_MYPY) $(PYTEST) -m "not full"

test-full: install ## run further cases of what the other tests cover
	$(PYTEST) -m full

gpu: ## show on this machine's GPUs that training is right and how fast it is (WHEELS=DIR: for what is missing)
	$(PYTHON) -m benchmarks.gpu $(if $(WHEELS),--wheels $(WHEELS))

lint: install ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: install ## build the wheel into dist/
	$(BIN)/python -m build --wheel

clean: ## remove what was built and installed; runs stay
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache

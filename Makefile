# make demo   a real federation on this machine, about four minutes after installation
# make test   every test; make check: lint, types and the fast tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1

.PHONY: install demo test check lint types format bench clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Confide needs Python 3.11 or newer; name one with make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: install
	$(BIN)/confide demo $(if $(JSON),--json $(JSON))

# Real federations time what they do, so they have the machine to themselves.
test: install
	$(BIN)/pytest -m 'not federation' --numprocesses auto
	$(BIN)/pytest -m federation

check: lint types
	$(BIN)/pytest -m 'not federation and not slow' --numprocesses auto

lint: install
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install
	$(BIN)/python -m benchmarks.dpsgd_step
	$(BIN)/python -m benchmarks.ledger
	$(BIN)/python -m benchmarks.publish
	$(BIN)/python -m benchmarks.round_latency

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

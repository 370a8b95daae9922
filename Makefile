# Two commands: `make demo` sets up and opens the dashboard, `make test` sets up and runs the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
# Processes of the tests, each with one thread of torch.
PROCESSES ?= 3
# Python compiles what is used when it is first imported: all of every package at its installation takes longer than
# all the rest of that. So what was compiled has to be kept, whatever the environment says of other programs.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check format model browser clean

demo: $(VENV)/.ready
	$(BIN)/python app.py --open $(ARGS)

test: $(VENV)/.ready-dev model browser
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(VENV)/.ready-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.ready-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

model: $(VENV)/.ready
	@$(BIN)/python -m inspector.model.embedded > /dev/null

browser:
	@sh scripts/install_browser.sh
	@PYTHON=$(PYTHON) sh scripts/fetch_axe.sh

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: requirements.txt | $(VENV)/bin/python
	$(PIP) -r requirements.txt
	@touch $@

$(VENV)/.ready-dev: requirements-dev.txt $(VENV)/.ready
	$(PIP) -r requirements-dev.txt
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache

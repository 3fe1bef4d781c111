# The two commands that matter: `make quickstart` and `make test`. Each sets up what it needs.
PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --disable-pip-version-check --quiet --no-compile \
          --constraint constraints.txt
# On all cores, where pip uses one; packages ship some files that are not for this Python.
COMPILE := $(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true

.PHONY: quickstart test unit lint image clean

quickstart: $(VENV)/.quickstart  ## videos -> features -> trained, evaluated, tracked model
	$(BIN)/python -m launch.quickstart

WORKERS ?= 4  # on two cores: half the time of the longest tests is waiting
test: $(VENV)/.dev  ## every test, the end-to-end run included
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

unit: $(VENV)/.dev  ## the tests that take seconds
	$(BIN)/python -m pytest -m "not slow"

lint: $(VENV)/.dev  ## format, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

TARGET ?= cpu
IMAGE  ?= localhost/sdst:0.1.0-$(TARGET)
image:  ## the container image, with buildah; see launch/image.sh for BASE, PIP_CONF and IMAGE_FLAGS
	launch/image.sh $(TARGET) $(IMAGE) $(IMAGE_FLAGS)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.quickstart: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing the environment into $(VENV) (a few minutes the first time)"
	$(PIP) --editable '.[quickstart]'
	@$(COMPILE)
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing the environment into $(VENV) (a few minutes the first time)"
	$(PIP) --editable '.[quickstart,demo,dev]'
	@$(COMPILE)
	@touch $(VENV)/.quickstart $@

clean:  ## remove what the commands above made
	rm -rf $(VENV) data/quickstart runs/quickstart

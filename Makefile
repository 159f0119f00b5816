# Two commands for users: `make demo` and `make test`. Each sets up all it needs.
SHELL := /bin/bash
VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMPS := .stamps
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Molecule keeps its state here: two checkouts with one name must not share it.
export ANSIBLE_HOME := $(CURDIR)/.ansible

.PHONY: help demo test test-all lint unit packer-validate vm-tests canaries molecule bench ways wheel lock setup clean

help:
	@echo "make demo       a real module built, loaded and judged in a real VM"
	@echo "make test       lint, unit tests, VM cycles, canaries (smoke), molecule test"
	@echo "make test-all   make test, with every canary and every suite"
	@echo "make bench      measured ratios: snapshot against boot, native against guest build; detection"
	@echo "make ways       one table over the guests: ours, its box by Vagrant, cloud images, Packer's"
	@echo "make lint unit packer-validate vm-tests canaries molecule wheel lock clean"

# -- set-up: apt packages, virtual environment --------------------------------------------

setup: $(STAMPS)/apt $(STAMPS)/venv

$(STAMPS)/apt: tools/apt-packages.txt tools/install-packages.sh
	tools/install-packages.sh tools/apt-packages.txt
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/venv: requirements.lock pyproject.toml | $(STAMPS)/apt
	tools/check-python.sh $(PYTHON)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@mkdir -p $(STAMPS) && touch $@

# -- the two commands ---------------------------------------------------------------------

# The categories that take longest are left out, so that it ends within three minutes.
demo: setup
	vexrun doctor
	vexrun test --subject examples/subjects/minix.toml --skip errors,stress,perf

test: lint unit vm-tests canaries molecule

# -- the parts ----------------------------------------------------------------------------

lint: setup packer-validate
	ruff check .
	ruff format --check .
	mypy
	yamllint --strict .
	ansible-lint -c .config/ansible-lint.yml --offline
	git ls-files -z '*.sh' .ci/run | xargs -0 shellcheck

packer-validate: setup
	@if command -v packer >/dev/null; then packer/validate.sh; \
	else echo "There is no packer here, so packer/ was not checked."; fi

unit: setup
	pytest tests/unit

vm-tests: setup
	pytest tests/vm -m "not slow"

canaries: setup
	pytest tests/canaries -m smoke

molecule: setup
	molecule test
	molecule test -s vagrant

test-all: lint unit setup
	pytest tests/vm
	pytest tests/canaries
	VEXRUN_TEST_SUITE=bookworm pytest tests/canaries
	molecule test --all

bench: setup
	python -m vexrun.bench

ways: setup
	python -m vexrun.ways $(GUESTS)

wheel: setup
	python -m build --wheel --no-isolation

# The lock holds hashes and no index address; it is made with uv (pip install uv).
lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-emit-find-links --extra dev pyproject.toml \
	    --custom-compile-command "make lock" -o requirements.lock

clean:
	rm -rf $(VENV) $(STAMPS) dist .ansible .mypy_cache .ruff_cache .pytest_cache

# 'make help' lists what there is. Set-up runs again only when what it depends on has changed.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet
SUDO := $(shell test "$$(id -u)" -eq 0 || echo sudo --preserve-env=CI,IMAGEFLOW_STATE_DIR,IMAGEFLOW_TEST_CACHE,IMAGEFLOW_TEST_CLOUD_DIR)
WORKERS ?= 2

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(VENV)/.demo ## One event builds a real Debian image, and the cascade a web server from it; again: nothing is built
	$(SUDO) etc/demo $(abspath $(BIN))/imageflow

.PHONY: test
test: $(VENV)/.test ## Everything a change should pass; some 40 minutes on two cores without KVM
	$(BIN)/pytest -m "serial and not slow and not cloud"
	$(BIN)/pytest -n $(WORKERS) -m "not serial and not slow and not cloud"

.PHONY: test-cloud
test-cloud: $(VENV)/.test $(VENV)/.cloud-packages ## On a real OpenStack that it installs, starts and stops
	$(SUDO) $(BIN)/pytest -m "cloud and not slow"

.PHONY: test-all
test-all: $(VENV)/.test $(VENV)/.cloud-packages ## The long suites too: real builds, storms of kills
	$(BIN)/pytest -m "(serial or slow) and not cloud"
	$(BIN)/pytest -n $(WORKERS) -m "not serial and not slow and not cloud"
	$(SUDO) $(BIN)/pytest -m cloud

.PHONY: lint
lint: $(VENV)/.lint ## Style, types, and the layers that imports keep to
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

.PHONY: format
format: $(VENV)/.lint ## Format the code
	$(BIN)/ruff check --fix --quiet . || true
	$(BIN)/ruff format --quiet .

.PHONY: bench
bench: $(VENV)/.bench ## Measure, and print a table of ratios
	$(BIN)/python -m bench

.PHONY: sample
sample: $(VENV)/.demo ## Write etc/imageflow.conf.sample again
	$(BIN)/oslo-config-generator --namespace imageflow --output-file etc/imageflow.conf.sample

.PHONY: setup
setup: $(VENV)/.test $(VENV)/.lint ## Set up all that developing needs

.PHONY: clean
clean: ## Remove what was set up; images and state stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis imageflow.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "imageflow needs Python 3.11 or later: make PYTHON=/path/to/python3 …" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "installing python3-venv"; \
		$(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq python3-venv; }
	$(PYTHON) -m venv $(VENV)

$(BIN)/bindep: | $(BIN)/python
	$(PIP) install 'bindep>=2.13,<3'

$(VENV)/.packages: bindep.txt | $(BIN)/bindep
	.ci/system-packages $(abspath $(BIN))/bindep
	@touch $@

$(VENV)/.test-packages: bindep.txt | $(BIN)/bindep
	.ci/system-packages $(abspath $(BIN))/bindep test
	@touch $@

$(VENV)/.cloud-packages: bindep.txt | $(BIN)/bindep
	.ci/system-packages $(abspath $(BIN))/bindep test cloud
	@touch $@

$(VENV)/.demo: setup.cfg pyproject.toml $(VENV)/.packages
	$(PIP) install --editable .
	@touch $@

$(VENV)/.test: setup.cfg pyproject.toml $(VENV)/.test-packages
	$(PIP) install --editable '.[test]'
	@touch $@ $(VENV)/.demo

$(VENV)/.lint: setup.cfg pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[test,lint]'
	@touch $@

$(VENV)/.bench-packages: bindep.txt | $(BIN)/bindep
	.ci/system-packages $(abspath $(BIN))/bindep test bench
	@touch $@

$(VENV)/.bench: setup.cfg pyproject.toml $(VENV)/.bench-packages
	$(PIP) install --editable '.[bench]'
	@touch $@

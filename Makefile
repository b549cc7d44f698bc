# 'make help' lists the targets. Set-up runs again only when its inputs have changed.

PYTHON ?= python3
VENV ?= .venv
LOCK := .venv-lock
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet
# the build backend is locked, too: it builds the packages that exist only as source (pykickstart)
LOCKED := $(PIP) install --no-build-isolation --require-hashes --requirement
EDITABLE := $(PIP) install --no-deps --no-build-isolation --editable .
SUDO := $(shell test "$$(id -u)" -eq 0 || echo sudo --preserve-env=CI,IMAGEFLOW_STATE_DIR,IMAGEFLOW_TEST_CACHE,IMAGEFLOW_TEST_CLOUD_DIR)
# tests wait much of their time, see tests/scheduling.py
WORKERS ?= $(shell echo $$((2 * $$(nproc))))

.DEFAULT_GOAL := help
# tests start hundreds of processes: without it each of them compiles everything again
unexport PYTHONDONTWRITEBYTECODE
.DELETE_ON_ERROR:

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# before the set-up, which takes minutes
.PHONY: ask-root
ask-root:
	@etc/demo --root || true

.PHONY: demo
demo: ask-root $(VENV)/.demo ## One event builds a real Debian image, then the cascade a web server from it; the second time, nothing is built
	etc/demo $(abspath $(BIN))/imageflow

SLICE ?= $(IMAGEFLOW_SLICE)
PYTEST = env IMAGEFLOW_SLICE=$(SLICE) $(BIN)/pytest

TESTS = $(PYTEST) -n $(WORKERS) --dist loadgroup

.PHONY: test
test: $(VENV)/.test ## Everything a change must pass, and its slice of the long suites; SLICE=NUMBER takes another slice
	$(TESTS) -m "not slow and not cloud"

.PHONY: test-newest
test-newest: ## The same with the newest versions that setup.cfg allows; first lists what differs from the lock
	@$(MAKE) --no-print-directory VENV=$(VENV)-newest newest

.PHONY: newest
newest: $(VENV)/.test-packages
	$(PIP) install --upgrade --upgrade-strategy eager --editable '.[test]'
	$(BIN)/python .ci/against-lock requirements/test.txt
	$(TESTS) -m "not slow and not cloud"

.PHONY: test-cloud
test-cloud: $(VENV)/.test $(VENV)/.cloud-packages ## Tests on a real OpenStack, which they install, start and stop
	$(SUDO) $(PYTEST) -m "cloud and not slow"

.PHONY: cloud-packages
cloud-packages: $(VENV)/.cloud-packages ## Install what the tests' OpenStack needs

.PHONY: prepare-cloud
prepare-cloud: $(VENV)/.test $(VENV)/.cloud-packages ## Make what the tests' OpenStack begins with; the first start does it, too
	$(SUDO) $(BIN)/python -m tests.cloud --name prepare prepare

.PHONY: test-all
test-all: SLICE = all
test-all: $(VENV)/.test $(VENV)/.cloud-packages ## All of the long suites, too: real builds, storms of kills
	$(TESTS) -m "not cloud"
	$(SUDO) $(PYTEST) -m cloud

.PHONY: slices
slices: $(VENV)/.test ## List what ten changes in a row run of the long suites; fail when they miss a test
	$(BIN)/python -m tests.slices

.PHONY: lint
lint: $(VENV)/.lint ## Check style, types, and the layers of imports
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

.PHONY: soak
soak: $(VENV)/.test ## 5,000 events, 50 builds, paused machines and 20 kill -9 of serve, at default settings; ends with an audit
	$(SUDO) $(BIN)/python -m bench.soak

.PHONY: lock
lock: $(LOCK)/.lock ## Renew requirements/*.txt: the newest versions that setup.cfg allows, with their hashes
	.ci/lock $(LOCK)/bin/uv

.PHONY: sample
sample: $(VENV)/.demo ## Write etc/imageflow.conf.sample, etc/policy.yaml.sample and doc/openapi.json again
	$(BIN)/oslo-config-generator --namespace imageflow --output-file etc/imageflow.conf.sample
	$(BIN)/oslopolicy-sample-generator --namespace imageflow --output-file etc/policy.yaml.sample
	$(BIN)/python -m imageflow.api.document > doc/openapi.json

.PHONY: setup
setup: $(VENV)/.test $(VENV)/.lint ## Install everything that development needs

.PHONY: clean
clean: ## Remove what the other targets installed; images and state stay
	rm -rf $(VENV) $(VENV)-newest $(LOCK) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis imageflow.egg-info

%/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "imageflow needs Python 3.11 or later: make PYTHON=/path/to/python3 …" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "installing python3-venv"; \
		$(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq python3-venv; }
	$(PYTHON) -m venv $*

$(VENV)/.tools: requirements/tools.txt | $(BIN)/python
	$(LOCKED) requirements/tools.txt
	@touch $@

$(VENV)/.packages: bindep.txt | $(VENV)/.tools
	.ci/system-packages $(abspath $(BIN))/bindep
	@touch $@

$(VENV)/.test-packages: bindep.txt | $(VENV)/.tools
	.ci/system-packages $(abspath $(BIN))/bindep test
	@touch $@

$(VENV)/.cloud-packages: bindep.txt | $(VENV)/.tools
	.ci/system-packages $(abspath $(BIN))/bindep test cloud
	@touch $@

$(VENV)/.bench-packages: bindep.txt | $(VENV)/.tools
	.ci/system-packages $(abspath $(BIN))/bindep test bench
	@touch $@

$(VENV)/.demo: requirements/run.txt setup.cfg pyproject.toml $(VENV)/.tools $(VENV)/.packages
	$(LOCKED) requirements/run.txt
	$(EDITABLE)
	@touch $@

$(VENV)/.test: requirements/test.txt setup.cfg pyproject.toml $(VENV)/.tools $(VENV)/.test-packages
	$(LOCKED) requirements/test.txt
	$(EDITABLE)
	@touch $@ $(VENV)/.demo

$(VENV)/.lint: requirements/lint.txt setup.cfg pyproject.toml $(VENV)/.tools
	$(LOCKED) requirements/lint.txt
	$(EDITABLE)
	@touch $@

$(VENV)/.bench: requirements/bench.txt setup.cfg pyproject.toml $(VENV)/.tools $(VENV)/.bench-packages
	$(LOCKED) requirements/bench.txt
	$(EDITABLE)
	@touch $@

$(LOCK)/.lock: requirements/lock.txt | $(LOCK)/bin/python
	$(LOCK)/bin/pip --disable-pip-version-check --quiet install --require-hashes --requirement requirements/lock.txt
	@touch $@

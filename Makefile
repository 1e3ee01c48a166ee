# The project's commands. `make` alone lists them.

# Another interpreter: make test PYTHON=python3.12. By default: 3.13, on which workers are smallest (docs/performance.md),
# then python3, then any that will do. Debian's lack ensurepip, which creates the environment, unless it is installed.
ifeq ($(origin PYTHON),undefined)
PYTHON := $(shell for p in python3.13 python3 python3.12 python3.11; do \
	$$p -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; exit; }; done; echo python3)
VENV ?= .venv
else
VENV ?= .venv-$(notdir $(PYTHON))
endif

PY := $(VENV)/bin/python
ARGS ?=
SECONDS ?= 600
# Tests often wait: eight processes keep two cores busy.
WORKERS ?= 8
PYTEST = $(PY) -m pytest -n $(WORKERS) --dist=loadgroup
PACKAGES = cluster jobclient jobserver proxy shared worker
SOURCES = $(wildcard $(PACKAGES) bench tests tools run.py)

# The tests start the proxy hundreds of times. Without bytecode on disk, each process would compile all its modules.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: clients servers help run cluster test unit integration chaos e2e pages soak soak-cluster lint types check imports coverage bench format docs clean

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-12s %s\n", $$1, $$2 }'
	@echo
	@echo '  ARGS="..."           is passed on, e.g. make test ARGS="-k callback"'
	@echo '  PYTHON=python3.13    uses another interpreter, in a separate virtual environment'

# The virtual environment. A stamp is as old as the last installation, so that new pins are installed automatically. An
# incomplete environment, as left by Debian's python3 without python3-venv, has no pip; it is created again, as is one
# whose interpreter is gone.

# The stamps of an environment without an interpreter are invalid.
$(shell test -x $(PY) || rm -f $(VENV)/.run-stamp $(VENV)/.dev-stamp)

MAKE_VENV = rm -rf $(VENV) && $(PYTHON) -m venv $(VENV)
INSTALL = $(PY) -m pip install --quiet --disable-pip-version-check -r

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Python 3.11 or newer is needed; $(PYTHON) is: $$($(PYTHON) --version 2>&1 | head -n 1). Try: make PYTHON=python3.13" >&2; \
		exit 1; }
	@$(CAN_MAKE_VENV)
	@$(MAKE_VENV) || { rm -rf $(VENV); exit 1; }

define CAN_MAKE_VENV
$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	echo "$(PYTHON) cannot make virtual environments. Debian, Ubuntu: apt install python3-venv. Then run make again." >&2; \
	exit 1; }
endef

define SEE_TO_PIP
$(PY) -c 'import pip' 2>/dev/null || { \
	echo "$(VENV) has no pip; making it again" >&2; { $(CAN_MAKE_VENV); } && $(MAKE_VENV) || exit 1; }
endef

$(VENV)/.run-stamp: requirements.txt | $(VENV)/bin/python
	@$(SEE_TO_PIP)
	@echo "Installing requirements.txt into $(VENV)" >&2
	@$(INSTALL) requirements.txt
	@touch $@

$(VENV)/.dev-stamp: requirements.txt requirements-dev.txt requirements-otel.txt | $(VENV)/bin/python
	@$(SEE_TO_PIP)
	@echo "Installing requirements-dev.txt into $(VENV)" >&2
	@$(INSTALL) requirements-dev.txt
	@touch $(VENV)/.run-stamp $@

run: $(VENV)/.run-stamp ## start the proxy, and a job server if none is configured
	@$(PY) run.py $(ARGS)

cluster: $(VENV)/.run-stamp ## several instances on one PostgreSQL, behind an nginx
	@$(PY) -m cluster $(ARGS)

test: $(VENV)/.dev-stamp ## all tests
	@$(PYTEST) $(ARGS)

unit: $(VENV)/.dev-stamp ## tests without processes
	@$(PYTEST) tests/unit $(ARGS)

integration: $(VENV)/.dev-stamp ## tests with real workers and a real job server
	@$(PYTEST) tests/integration $(ARGS)

chaos: $(VENV)/.dev-stamp ## tests that break things
	@$(PYTEST) tests/chaos $(ARGS)

e2e: $(VENV)/.dev-stamp ## tests that start the proxy as a user does
	@$(PYTEST) tests/e2e $(ARGS)

pages: $(VENV)/.dev-stamp ## test the operators' pages with a million jobs, and take the screenshots in docs/
	@PAGES_JOBS=1000000 PAGES_PICTURES=60 $(PY) -m pytest tests/e2e/pages $(ARGS)

soak: $(VENV)/.dev-stamp ## the seeded kill loop for SECONDS=600
	@SOAK_SECONDS=$(SECONDS) $(PY) -m pytest tests/chaos -m soak --timeout=0 --capture=no $(ARGS)

soak-cluster: $(VENV)/.dev-stamp ## the same for several instances, their database and their network
	@SOAK_SECONDS=$(SECONDS) $(PY) -m pytest tests/chaos -m soak_cluster --timeout=0 --capture=no $(ARGS)

servers: $(patsubst tests/servers/requirements/%.txt,.servers/%/.stamp,$(wildcard tests/servers/requirements/*.txt)) ## install real job servers for the tests

.servers/%/.stamp: tests/servers/requirements/%.txt
	@echo "Installing $< into .servers/$*" >&2
	@$(PYTHON) -m venv --clear .servers/$*
	@.servers/$*/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

clients: .clients/go/client ## build the clients that the tests compile

# Go is installed as a wheel in its own folder, and writes only there; nothing is downloaded while it builds.
GO_BUILD = env -i PATH="$$PATH" HOME=$(CURDIR)/.clients/go CGO_ENABLED=0 GOTOOLCHAIN=local GOPROXY=off .clients/go/bin/go build

.clients/go/.stamp: tests/e2e/clients/go.txt
	@echo "Installing $< into .clients/go" >&2
	@$(PYTHON) -m venv --clear .clients/go
	@.clients/go/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

.clients/go/client: tests/e2e/clients/client.go .clients/go/.stamp
	@echo "Building $<" >&2
	@$(GO_BUILD) -o $@ $<

check: lint types imports coverage ## ruff, mypy, import-linter, coverage

lint: $(VENV)/.dev-stamp ## ruff: rules and format
	@$(PY) -m ruff check $(SOURCES)
	@$(PY) -m ruff format --check $(SOURCES)

types: $(VENV)/.dev-stamp ## mypy --strict
	@$(PY) -m mypy --strict $(SOURCES)

imports: $(VENV)/.dev-stamp ## import-linter: who may import whom
	@PYTHONPATH=. $(VENV)/bin/lint-imports

coverage: $(VENV)/.dev-stamp ## unit and integration tests, measured
	@$(PYTEST) tests/unit tests/integration --cov --cov-report=term $(ARGS)

bench: $(VENV)/.dev-stamp ## measure this proxy beside others
	@$(PY) -m bench $(ARGS)

format: $(VENV)/.dev-stamp ## let ruff rewrite what it can
	@$(PY) -m ruff check --fix $(SOURCES)
	@$(PY) -m ruff format $(SOURCES)

docs: $(VENV)/.dev-stamp ## write the generated parts of the documentation again
	@set -e; for generator in $(basename $(notdir $(wildcard tools/generate_*.py))); do \
		$(PY) -m tools.$$generator; done

clean: ## remove caches and what tests left; the virtual environments stay
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.* htmlcov build
	@find . -name '.venv*' -prune -o -name .git -prune -o -name __pycache__ -type d -print | xargs rm -rf

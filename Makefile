# Two commands do all the set-up, each as often as you like: `make run` and `make test`.

PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
DATA ?= $(CURDIR)/var
WORKERS ?= 2
SECONDS ?= 60
SEED ?= $(shell date +%s)

VENV := .venv
BIN := $(VENV)/bin
RUN_READY := $(VENV)/ready-to-run
TEST_READY := $(VENV)/ready-to-test
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# A run on another address needs to know it: pages and sockets are refused from addresses that are not the site's.
ORIGIN := $(if $(filter 127.0.0.1 localhost,$(HOST)),,http://$(HOST):$(PORT))
DEMO := FLUJO_DEBUG=1 FLUJO_DEMO=1 FLUJO_DATA="$(DATA)" FLUJO_ORIGIN="$${FLUJO_ORIGIN:-$(ORIGIN)}"
PRODUCTION := FLUJO_ORIGIN=https://flujo.example.org FLUJO_DATABASE_URL= FLUJO_REDIS_URL= FLUJO_DEBUG= FLUJO_DEMO=
LOCK := $(BIN)/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command "make lock" \
	--extra console --extra postgres --extra redis --extra encryption --extra cli --group build
SOURCES := engine/flujo runs flujo_site manage.py

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test test-fast campaign bench check lint lock clean prerequisites test-programs

help:  ## Show the commands
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  PORT, HOST and DATA can be given to run: make run PORT=9000 DATA=/srv/flujo"

run: $(RUN_READY)  ## Serve the console with demo data at http://127.0.0.1:8000
	@$(DEMO) $(BIN)/python manage.py migrate --verbosity 0
	@$(DEMO) $(BIN)/python manage.py demo
	@exec env $(DEMO) $(BIN)/python manage.py serve --host "$(HOST)" --port "$(PORT)"

test: $(TEST_READY) test-programs  ## Run the whole suite: real servers and a real browser included
	@$(BIN)/python -m pytest -n $(WORKERS)

test-fast: $(TEST_READY)  ## Run what needs no server and no browser
	@$(BIN)/python -m pytest -n $(WORKERS) -m "not services and not browser and not slow"

campaign: $(TEST_READY) test-programs  ## Look for what breaks the promises: storms of SECONDS each, from a SEED
	@$(BIN)/python -m pytest tests/campaign -s -p no:randomly -o faulthandler_timeout=0 \
		--campaign-seconds="$(SECONDS)" --campaign-seed="$(SEED)"

bench: $(TEST_READY)  ## Measure what a step costs beside the physical limit
	@PYTHONPATH=engine:. $(BIN)/python -m bench

check: lint test  ## Everything that CI checks

lint: $(TEST_READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(SOURCES)
	$(BIN)/lint-imports --no-cache
	$(BIN)/djlint --lint --quiet templates
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && export FLUJO_DATA="$$folder" $(PRODUCTION) \
	&& set -x \
	&& $(BIN)/python manage.py makemigrations --check --dry-run \
	&& $(BIN)/python manage.py migrate --verbosity 0 \
	&& $(BIN)/python manage.py collectstatic --no-input --verbosity 0 \
	&& $(BIN)/python manage.py check --deploy --fail-level WARNING

lock: $(TEST_READY)  ## Write the lock files anew, with the newest versions that pyproject.toml allows
	$(LOCK) --upgrade pyproject.toml --output-file requirements.lock
	$(LOCK) --upgrade --group dev --constraint requirements.lock pyproject.toml --output-file requirements-dev.lock

clean:  ## Remove the environment and the caches; the data folder stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage htmlcov dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each missing program is one line that says what to install.
prerequisites:
	@command -v git >/dev/null || { echo "git is missing: install it (on Debian: apt install git)" >&2; exit 1; }
	@command -v $(PYTHON) >/dev/null || { echo "Python is missing: install version 3.11 or newer (on Debian: apt install python3 python3-venv)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is too old: install Python 3.11 or newer, or name one with PYTHON=" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv is missing: install it (on Debian: apt install python3-venv)" >&2; exit 1; }

$(BIN)/python: | prerequisites
	@echo "Making the environment in $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV)

$(RUN_READY): requirements.lock pyproject.toml | $(BIN)/python
	@echo "Installing what the site needs"
	@$(PIP) install --require-hashes --requirement requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(TEST_READY): requirements-dev.lock requirements.lock pyproject.toml | $(BIN)/python
	@echo "Installing what the tests need"
	@$(PIP) install --require-hashes --requirement requirements-dev.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $(RUN_READY) $@

# Chromium, PostgreSQL and Redis: installed when this is root on Debian, else named in one line.
test-programs: $(TEST_READY)
	@missing=$$($(BIN)/python -m tests.services) || exit 1; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing $$missing"; \
		export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1; \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing; } >/dev/null \
		|| [ "$(ALLOW_MISSING)" = 1 ]; \
	elif [ "$(ALLOW_MISSING)" != 1 ]; then \
		echo "Missing for the tests: install $$missing (on Debian: apt install $$missing), or leave their tests out with ALLOW_MISSING=1" >&2; exit 1; \
	fi

# Rapport's commands. `make` lists them; each does its own set-up, and a second run of a set-up is instant.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3.14 python3,$(shell command -v $(p) 2>/dev/null)))
export PYTHONPATH := .:gen
unexport PYTHONDONTWRITEBYTECODE
BIN := .venv/bin
PY := $(BIN)/python
SOURCES := $(wildcard chassis services gateway cli deploy tools tests)
COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-build \
	--python-version 3.11 --custom-compile-command 'make lock'

.PHONY: help
help:  ## list these commands
	@awk -F':.*## ' '/^[a-z][a-z0-9-]*:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ---- set-up ---------------------------------------------------------------------------------------

.venv: .venv/.installed
.venv/.installed: requirements/uv.lock requirements/dev.lock
	@test -n "$(PYTHON)" && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Rapport needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(PY) || { echo "creating .venv"; $(PYTHON) -m venv .venv \
		|| { echo "python's venv module is missing (Debian: python3-venv)" >&2; rm -rf .venv; exit 1; }; }
	@cmp -s requirements/uv.lock .venv/.uv.lock || { \
		$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.lock \
		&& cp requirements/uv.lock .venv/.uv.lock; }
	@echo "installing the locked packages"
	@$(BIN)/uv pip sync --quiet --compile-bytecode --python $(PY) --require-hashes requirements/uv.lock requirements/dev.lock
	@touch $@

.PHONY: gen
gen: .venv  ## generate Python and the contract image from protos/ when they changed
	@$(PY) tools/gen.py

.PHONY: lock
lock: .venv  ## resolve requirements/*.in again (UPGRADE=1 for the newest versions)
	@$(COMPILE) $(if $(UPGRADE),--upgrade) requirements/uv.in -o requirements/uv.lock
	@$(COMPILE) $(if $(UPGRADE),--upgrade) requirements/run.in -o requirements/run.lock
	@$(COMPILE) $(if $(UPGRADE),--upgrade) -c requirements/run.lock requirements/gen.in -o requirements/gen.lock
	@$(COMPILE) $(if $(UPGRADE),--upgrade) -c requirements/run.lock requirements/dev.in -o requirements/dev.lock
	@$(COMPILE) $(if $(UPGRADE),--upgrade) requirements/bench.in -o requirements/bench.lock

# ---- the platform on this machine -----------------------------------------------------------------

.PHONY: up down reset logs status rebuild rotate-keys demo
up: .venv gen  ## start the whole platform here (DETACH=1 in the background, REPLICAS=2 two of each)
	@$(PY) -m deploy.local up $(if $(DETACH),--detach) $(if $(REPLICAS),--replicas $(REPLICAS))

down: .venv  ## stop it
	@$(PY) -m deploy.local down

reset: .venv  ## stop it and delete its data
	@$(PY) -m deploy.local reset

logs: .venv  ## follow its logs (PART=sales for one part)
	@$(PY) -m deploy.local logs $(PART)

status: .venv  ## show what runs
	@$(PY) -m deploy.local status

rebuild: .venv gen  ## make a projection again from the ledgers (PROJECTION=timeline or funnel)
	@$(PY) -m deploy.local rebuild $(or $(PROJECTION),timeline)

rotate-keys: .venv  ## give the running processes new signing keys (KINDS=sales for some); takes minutes
	@$(PY) -m deploy.local rotate-keys $(KINDS)

demo: .venv gen  ## load an invented company's year through the API
	@$(PY) -m deploy.demo $(ARGS)

# ---- speed and faults -----------------------------------------------------------------------------

.PHONY: bench bench-data faults check-long
bench: .venv gen  ## measure the platform against bare floors (FULL=1 for the whole, ARGS='--only get')
	@$(PY) -m tests.bench $(if $(FULL),--full) $(ARGS)

bench-data: .venv gen  ## fill a tenant of the running platform with invented records (ROWS=10000 of each kind)
	@$(PY) -m tests.bench.data --rows $(or $(ROWS),10000) $(ARGS)

faults: .venv gen  ## break the platform under load and check that nothing is lost (FULL=1, ARGS='--seed 7 --bug NAME')
	@$(PY) -m tests.faults $(if $(FULL),--full) $(ARGS)

check-long: .venv gen  ## run one line of the reliability test plan at full length (LINE=12)
	@test -n "$(LINE)" || { echo "say which: make check-long LINE=12 (docs/reliability.md lists them)" >&2; exit 1; }
	@$(PY) -m pytest tests/reliability tests/e2e/test_journey.py --long --line $(LINE) -rA $(ARGS)

# ---- checks ---------------------------------------------------------------------------------------

.PHONY: test check format contract-release
test: .venv gen  ## run the tests (ARGS='-k timeline -x')
	@$(PY) -m pytest $(ARGS)

check: check-format check-lint check-types check-contract check-imports check-k8s check-dead check-spelling  ## run every check
.PHONY: check-format check-lint check-types check-contract check-imports check-k8s check-dead check-spelling

check-format: .venv  ## formatting
	@$(BIN)/ruff format --quiet --check $(SOURCES) || { echo "run: make format" >&2; exit 1; }

check-lint: .venv  ## lint
	@$(BIN)/ruff check --quiet $(SOURCES)

check-types: .venv gen  ## types, strictly
	@$(BIN)/mypy --no-error-summary $(SOURCES)

check-contract: .venv gen  ## the contract: style, and that clients of the published one still work
	@$(BIN)/buf lint gen/contract.binpb --config buf.yaml
	@$(BIN)/buf breaking gen/contract.binpb --against protos/baseline.binpb --config buf.yaml

check-imports: .venv gen  ## who may import whom
	@$(BIN)/lint-imports --no-cache > .venv/.imports.log || { cat .venv/.imports.log; exit 1; }

check-k8s: .venv gen  ## Kubernetes manifests: schemas and rules
	@$(PY) -m deploy.k8s.check

check-dead: .venv  ## code nobody calls, packages nobody imports
	@$(BIN)/vulture
	@$(BIN)/deptry . --no-ansi --requirements-files requirements/run.in --requirements-files-dev requirements/dev.in \
		> .venv/.deptry.log 2>&1 || { cat .venv/.deptry.log; exit 1; }

check-spelling: .venv  ## spelling
	@$(BIN)/codespell $(SOURCES) protos docs README.md

format: .venv  ## format the sources and fix what can be fixed
	@$(BIN)/ruff check --quiet --fix-only $(SOURCES)
	@$(BIN)/ruff format --quiet $(SOURCES)

contract-release: .venv gen  ## publish the contract: rewrites protos/baseline.binpb (BREAKING='reason' if it breaks)
	@$(PY) tools/contract_release.py $(if $(BREAKING),--breaking "$(BREAKING)")

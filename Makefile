# Every verb prints itself: `make help`. Needs Python >= 3.11; everything else it installs into .venv.
SHELL := /bin/bash
.DEFAULT_GOAL := help
FITS := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do $$p -c '$(FITS)' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST := $(BIN)/python -m pytest
# A file stays with one process: what its tests share is started once.
BESIDE := --dist loadfile -n
# Half as many again as there are processors: tests wait for servers, and a third less time goes by.
PROCESSES := $(shell expr $$(getconf _NPROCESSORS_ONLN) \* 3 / 2)
EXTRAS := $(foreach e,vault aws gcp cedar postgres flower,--extra $(e))
COMPILE := uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	--custom-compile-command "make lock" --quiet
CHAOS := $(if $(SEED),CHAOS_SEED=$(SEED) )$(PYTEST) -p no:randomly -q

.PHONY: help demo up test unit e2e security browser interop containers chaos chaos-full upgrade storm twins mutants lint type format lock fuzz admin-fuzz scale audit-load conformance balanced bench bench-queue bench-smoke bench-docs schema clean

help: ## Show the verbs
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" && $(PYTHON) -c '$(FITS)' || { echo "Python 3.11 or later with venv is needed (Debian: apt install python3-venv); name it: make PYTHON=/path/to/python3.12 ..."; exit 1; }
	@echo "installing into $(VENV) (once; a minute or two)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(READY)

demo: $(READY) ## Start the gateway with demo tools, make real calls through it, show each stage, stop
	@$(BIN)/python examples/demo.py

up: $(READY) ## Run the gateway here, with canalgate.yaml if there is one
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/canalgate up

test: lint type unit e2e interop ## Everything that must pass: checks, tests, end to end

unit: $(READY) ## The tests beside the code, with a real Redis
	$(PYTEST) tests -m "not e2e and not interop and not containers and not chaos_fast and not chaos_full" -q $(BESIDE) $(PROCESSES)

e2e: $(READY) ## Real gateway processes, real backends, real clients, kill -9
	$(PYTEST) tests -m "e2e and not alone and not interop and not bench and not chaos_fast and not chaos_full" -q $(BESIDE) 3
	$(PYTEST) tests -m "e2e and alone and not interop and not bench" -q

security: $(READY) ## The tables of attacks, a test for each published weakness of an MCP product; FULL=1: isolation at 10,000 calls
	$(PYTEST) tests/security -q $(BESIDE) auto
	$(if $(FULL),ISOLATION_CALLS=10000 $(PYTEST) tests/security/test_isolation.py -q -s)

browser: $(READY) ## Flower in a real browser: pages whole, nothing that changes (needs chromium)
	$(PYTEST) tests/e2e/test_flower.py -q -k browser

interop: $(READY) ## Eleven clients, the reference servers and our own in each era, through one gateway (Node >= 22.19 is fetched from npm)
	$(PYTEST) tests -m "interop and not chaos_fast and not chaos_full" -q

containers: $(READY) ## Build both images and run the Compose file, without a Docker engine (needs root, buildah, podman)
	$(PYTEST) tests/containers -q -p no:randomly

chaos: $(READY) ## Faults under load on real processes, and a small storm: ten minutes; SEED=n repeats a run
	$(CHAOS) -n 2 tests/chaos -m "chaos_fast"

chaos-full: $(READY) ## All faults at full length, and the full storm: hours
	$(CHAOS) tests/chaos -m "chaos_full"

upgrade: $(READY) ## This version and another side by side under load, rolling there and back; AGAINST=<git ref>
	@test -n "$(AGAINST)" || { echo "name the other version: make upgrade AGAINST=v1.2.3"; exit 1; }
	@rm -rf .upgrade && git worktree prune && git worktree add --detach --quiet .upgrade "$(AGAINST)"
	UPGRADE_TREE=$(CURDIR)/.upgrade $(CHAOS) tests/chaos/test_upgrade.py -m chaos_full -s; \
	  status=$$?; git worktree remove --force .upgrade; exit $$status

storm: $(READY) ## 20,000 calls in a storm of faults
	$(CHAOS) tests/chaos/test_storm.py -m "chaos_full" -s

twins: $(READY) ## The state machines in Lua beside their pure twins, 5,000 random courses each
	CANALGATE_TWIN_EXAMPLES=5000 $(PYTEST) tests/lua -q -n auto

mutants: $(READY) ## Break one rule after the other in a copy of the tree; each must be caught by its tests; NAME=n for one
	$(BIN)/python -m tests.chaos.mutants.run $(NAME)

lint: $(READY) ## ruff, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

type: $(READY) ## mypy --strict
	$(BIN)/mypy

format: $(READY) ## Format the code
	$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

fuzz: $(READY) ## 20,000 mutated requests: none breaks the gateway, none is read in two ways; SEED=n for others
	FUZZ_SEED=$(SEED) FUZZ_REQUESTS=20000 FUZZ_LATENCY=1 $(PYTEST) tests/e2e/test_fuzz.py -q -s

admin-fuzz: $(READY) ## The admin API against its own OpenAPI document, for each role; SEED=n for other requests
	FUZZ_SEED=$(SEED) ADMIN_FUZZ_EXAMPLES=20 $(PYTEST) tests/e2e/test_admin_fuzz.py -q -s

scale: $(READY) ## 1,000 idle streams and 500 idle WebSockets on one web process for ten minutes each: memory, pings beside them
	SCALE_FULL=1 $(PYTEST) tests/e2e/test_scale.py -q -s

audit-load: $(READY) ## What observability may cost: 1,000,000 audit events, sinks that fail or are slow, tracing, pushed metrics; SMALL=1: a short one
	$(BIN)/python -m benchmarks.audit_load $(if $(SMALL),--small)

conformance: $(READY) ## The official conformance suite, of servers and of clients, with the gateway as either (Node >= 22 is fetched from npm)
	$(BIN)/python -m tests.conformance.run

balanced: $(READY) ## The same with two web processes, each request to the next one
	$(BIN)/python -m tests.conformance.run --balanced

bench: $(READY) ## Throughput, latency and CPU against the backend alone and against other gateways
	$(BIN)/python -m benchmarks.run

bench-queue: $(READY) ## The queue: beside stock Celery, 1,000 calls in flight, 500 tools, a second worker
	$(BIN)/python -m benchmarks.queue_suite

bench-smoke: $(READY) ## One short run of each script of the benchmarks: do they still measure what they say?
	$(PYTEST) tests/benchmarks -q

bench-docs: $(READY) ## Put the figures of the last benchmark runs into docs/benchmarks.md
	$(BIN)/python -m benchmarks.queue_suite --paste

schema: $(READY) ## Write docs/canalgate.schema.json
	$(BIN)/python -m common.settings.schema

lock: ## Resolve the dependencies anew (needs uv)
	$(COMPILE) --extra local $(EXTRAS) --group dev -o requirements.lock
	rm -f deploy/requirements.lock  # no version but those that the tests run with
	$(COMPILE) --constraint requirements.lock $(EXTRAS) --group build -o deploy/requirements.lock

clean: ## Remove what the verbs made
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache

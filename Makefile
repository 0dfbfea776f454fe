# The same commands on a workstation and in CI. `make` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Ansible imports itself and its plugins for each run and each task: without compiled modules, runs take twice as long
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## Install the controller's tools into .venv
	@scripts/setup

.PHONY: demo
demo: setup ## Serve the reference application from a local fleet, over TLS (ACME=1: with an ACME certificate)
	@scripts/demo

.PHONY: test
test: lint test-unit test-fleet ## Run everything that CI runs

.PHONY: test-unit
test-unit: setup-dev ## Run the unit tests of plugins, templates and packages
	@scripts/test-unit

# SCENARIOS="deploy acme": only some scenarios
SCENARIOS ?=
.PHONY: test-fleet
test-fleet: setup-dev ## Run the Molecule scenarios on real systemd hosts
	@scripts/test-fleet $(SCENARIOS)

.PHONY: test-long
test-long: test-long-unit test-mutants-changed test-long-fleet ## Run all tests, including the long ones: hundreds of reloads, kills and bad releases (hours)

.PHONY: test-long-unit
test-long-unit test-long-fleet: export BATON_TEST_LONG := 1
test-long-unit test-long-fleet: export PYTEST_ADDOPTS := -m ""
test-long-unit: setup-dev
	@scripts/test-unit

.PHONY: test-long-fleet
test-long-fleet: setup-dev
	@scripts/test-fleet $(SCENARIOS)

# MUTANTS="history bake --sample 50": only some modules and mutants
.PHONY: test-mutants
test-mutants: setup-dev ## Measure the tests by mutation: docs/testing.md (hours)
	@python -m tests.mutants $(MUTANTS)

# mutants of lines that differ from MUTANTS_BASE: at most 60 of each module, of which 85 % must be killed
MUTANTS_BASE ?= $(shell git merge-base HEAD main)
.PHONY: test-mutants-changed
test-mutants-changed: setup-dev
	@python -m tests.mutants --changed $(MUTANTS_BASE) --sample 60 --floor 85

.PHONY: lint
lint: setup-dev ## Run all linters
	@scripts/lint

.PHONY: setup-dev
setup-dev:
	@scripts/setup dev

.PHONY: lock
lock: setup ## Update the hashed locks to the newest releases
	@scripts/lock

.PHONY: build
build: setup ## Pack the collection baton.web into dist/
	@ansible-galaxy collection build --force --output-path dist

# BENCH_OPTIONS=--quick: only checks that a benchmark works, in about five minutes
.PHONY: bench-reload
bench-reload: setup-dev ## Measure reloads side by side with other servers: docs/benchmarks.md (45 minutes)
	@python -m tests.bench.reload $(BENCH_OPTIONS)

.PHONY: bench-deploy
bench-deploy: setup-dev ## Measure deploys and rollbacks to 2 and to 8 app servers: docs/benchmarks-deploy.md (about 20 minutes)
	@python -m tests.bench.deploy $(BENCH_OPTIONS)

.PHONY: bench-scale
bench-scale: setup-dev ## Measure a deploy's load on the controller with 2, 8 and 24 app servers: docs/benchmarks-scale.md (about 20 minutes)
	@python -m tests.bench.scale $(BENCH_OPTIONS)

# BENCH_OPTIONS="--only overload slow --release trixie": only some parts or one release, printed instead of written
.PHONY: security
security: setup-dev ## Measure the security figures with independent tools: docs/security-figures.md (more than an hour)
	@python -m tests.bench.security $(BENCH_OPTIONS)

.PHONY: clean
clean: ## Remove everything created here: local fleets, images, caches, .venv
	@scripts/clean

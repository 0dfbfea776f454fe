# The same commands on a workstation and in CI. `make` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Ansible imports itself and its plugins for each run and each task: without compiled modules all of it takes twice as long
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## Install the controller's tools into .venv
	@scripts/setup

.PHONY: demo
demo: setup ## Serve the reference application from a local fleet, over TLS (ACME=1: with a certificate by ACME)
	@scripts/demo

.PHONY: test
test: lint test-unit test-fleet ## Everything that CI runs

.PHONY: test-unit
test-unit: setup-dev ## Unit tests of plugins, templates and packages
	@scripts/test-unit

# SCENARIOS="deploy acme": some of them
SCENARIOS ?=
.PHONY: test-fleet
test-fleet: setup-dev ## Molecule on real systemd hosts
	@scripts/test-fleet $(SCENARIOS)

.PHONY: test-long
test-long: test-long-unit test-mutants-changed test-long-fleet ## Everything in its long form: hundreds of reloads, kills and bad releases (hours)

.PHONY: test-long-unit
test-long-unit test-long-fleet: export BATON_TEST_LONG := 1
test-long-unit test-long-fleet: export PYTEST_ADDOPTS := -m ""
test-long-unit: setup-dev
	@scripts/test-unit

.PHONY: test-long-fleet
test-long-fleet: setup-dev
	@scripts/test-fleet $(SCENARIOS)

# MUTANTS="history bake --sample 50": some modules, some mutants
.PHONY: test-mutants
test-mutants: setup-dev ## How much the tests notice: docs/testing.md (hours)
	@python -m tests.mutants $(MUTANTS)

# of lines that differ from MUTANTS_BASE, at most so many of each module, most must be killed
MUTANTS_BASE ?= $(shell git merge-base HEAD main)
.PHONY: test-mutants-changed
test-mutants-changed: setup-dev
	@python -m tests.mutants --changed $(MUTANTS_BASE) --sample 60 --floor 85

.PHONY: lint
lint: setup-dev ## All linters
	@scripts/lint

.PHONY: setup-dev
setup-dev:
	@scripts/setup dev

.PHONY: lock
lock: setup ## Write the hashed locks anew, with the newest releases
	@scripts/lock

.PHONY: build
build: setup ## Pack the collection baton.web into dist/
	@ansible-galaxy collection build --force --output-path dist

# BENCH_OPTIONS=--quick: whether a benchmark works at all, in some three minutes
.PHONY: bench-reload
bench-reload: setup-dev ## Measure reloads side by side with other servers: docs/benchmarks.md (33 minutes)
	@python -m tests.bench.reload $(BENCH_OPTIONS)

.PHONY: bench-deploy
bench-deploy: setup-dev ## Measure deploys and rollbacks to 2 and to 8 app servers: docs/benchmarks-deploy.md (some 20 minutes)
	@python -m tests.bench.deploy $(BENCH_OPTIONS)

.PHONY: bench-scale
bench-scale: setup-dev ## Measure what a deploy takes of the controller on 2, 8 and 24 app servers: docs/benchmarks-scale.md (some 30 minutes)
	@python -m tests.bench.scale $(BENCH_OPTIONS)

.PHONY: security
security: setup-dev ## Measure the security figures by independent tools: docs/security-figures.md (up to 50 minutes)
	@python -m tests.bench.security

.PHONY: clean
clean: ## Remove all that was made here: local fleets, images, caches, .venv
	@scripts/clean

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

.PHONY: test-fleet
test-fleet: setup-dev ## Molecule on real systemd hosts
	@scripts/test-fleet -s preflight -s default -s handover -s applications -s hostile -s acme -s deploy

.PHONY: test-long
test-long: export BATON_TEST_LONG := 1
test-long: export PYTEST_ADDOPTS := -m ""
test-long: setup-dev ## Everything in its long form: hundreds of reloads, kills and bad releases (hours)
	@scripts/test-unit
	@scripts/test-fleet --all

.PHONY: lint
lint: setup-dev ## All linters
	@scripts/lint

.PHONY: setup-dev
setup-dev:
	@scripts/setup dev

.PHONY: lock
lock: setup ## Write the hashed locks anew, with the newest releases
	@scripts/lock

# BENCH_OPTIONS=--quick: whether a benchmark works at all, in some three minutes
.PHONY: bench-reload
bench-reload: setup-dev ## Measure reloads side by side with other servers: docs/benchmarks.md (33 minutes)
	@python -m tests.bench.reload $(BENCH_OPTIONS)

.PHONY: bench-deploy
bench-deploy: setup-dev ## Measure deploys and rollbacks to 2 and to 8 app servers: docs/benchmarks-deploy.md (some 20 minutes)
	@python -m tests.bench.deploy $(BENCH_OPTIONS)

.PHONY: clean
clean: ## Remove all that was made here: local fleets, images, caches, .venv
	@scripts/clean

# `make repro` reproduces the findings, `make test` checks everything. Both need Python >= 3.11 with venv, git
# and make, and bring the rest into .venv.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help env repro record test kill mutants peers versions notebooks explorer docs bench lint

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	"$$p" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v "$$p"; break; }; done)
BIN := .venv/bin

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

env: .venv/.installed  ## create .venv with the locked versions (PYTHON=... to choose the interpreter)

.venv/.installed: requirements.lock pyproject.toml
	@[[ -n "$(PYTHON)" ]] || { echo "No Python >= 3.11 with venv found: install one, or say make PYTHON=/path/to/python3.11"; exit 1; }
	@[[ -x $(BIN)/pip ]] || { echo "env 1/4: .venv from $(PYTHON)"; "$(PYTHON)" -m venv .venv; }
	@echo "env 2/4: torch"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check $$(grep '^torch==' requirements.lock)
	@echo "env 3/4: $$(grep -c == requirements.lock) locked packages (about two minutes)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements.lock
	@echo "env 4/4: zsnr"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps -e .
	@touch $@

docs: env  ## put the table and figures of the full profile on the repository's page
	@cp results/claims.md docs/; rm -f docs/*.png
	@for png in results/full/findings/*/*.png; do nb=$$(basename $$(dirname $$png)); cp $$png docs/$$nb-$$(basename $$png); done

repro: env  ## restore what is cached, run the rest, print the claims table
	@$(BIN)/python -m pipeline.repro

record: env  ## after a run: keep its results in dvcstore/, and nothing that no stage needs
	@$(BIN)/python -m pipeline.record

test: env  ## lint, types, tests, notebooks, and the smoke pipeline from scratch
	@.ci/test

kill: env  ## kill trainings at 100 random moments, and see that nothing is lost
	@$(BIN)/python tests/kill.py

mutants: env  ## change constants of zsnr one at a time, and see the claims' checks flip
	@$(BIN)/python tests/mutants.py

peers: env  ## diffusers' own tests with our scheduler, from a checkout of diffusers in .peers/diffusers
	@$(BIN)/python tests/peers

notebooks: env  ## execute every notebook pair again, with default parameters
	@for name in 00_start_here explorer stages findings; do $(BIN)/python -m pipeline.nbrun $$name; done

explorer: env  ## serve the explorer as an app, in the browser
	@JUPYTER_PATH=pipeline/jupyter $(BIN)/voila notebooks/explorer.ipynb --template=offline

bench: env  ## time and error against diffusers, and against k-diffusion, azula and smalldiffusion where installed
	@$(BIN)/python -m benchmarks

versions: env  ## run the tests on the oldest and newest versions, on each Python that is found
	@$(BIN)/python -m pipeline.versions

lint: env  ## put the code in order, then check style and types
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format . && $(BIN)/mypy

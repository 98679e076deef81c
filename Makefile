# `make repro` reproduces the findings, `make test` checks everything. Both need Python >= 3.11 with venv, git
# and make, and bring the rest into .venv.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help env dev lock repro record test kill mutants peers versions notebooks explorer docs site bench lint

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	"$$p" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v "$$p"; break; }; done)
BIN := .venv/bin

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

env: .venv/.installed  ## create .venv with the locked versions (PYTHON=... to choose the interpreter)

dev: .venv/.dev  ## add to it what tests, style checks and the site need

# torch by pip, and first: an index may have its CPU build where only pip looks. Then uv, which takes a tenth of pip's time;
# where it cannot be had, or cannot install, pip does it all. Without bytecode: Python compiles what is imported.
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-compile
define install
	$(PIP) $(UV) 2> /dev/null && $(BIN)/uv pip install -q --python $(BIN)/python -r $(1) || $(PIP) -r $(1)
endef
UV := uv==0.13.9

.venv/.installed: requirements.lock pyproject.toml
	@[[ -n "$(PYTHON)" ]] || { echo "No Python >= 3.11 with venv found: install one, or say make PYTHON=/path/to/python3.11"; exit 1; }
	@[[ -x $(BIN)/pip ]] || { echo "env 1/4: .venv from $(PYTHON)"; "$(PYTHON)" -m venv .venv; }
	@echo "env 2/4: torch"
	@$(PIP) $$(grep '^torch==' requirements.lock)
	@echo "env 3/4: $$(grep -c == requirements.lock) locked packages"
	@$(call install,requirements.lock)
	@echo "env 4/4: zsnr"
	@$(PIP) --no-deps -e .
	@touch $@

.venv/.dev: requirements-test.lock .venv/.installed
	@echo "dev: $$(grep -c == requirements-test.lock) packages more"
	@$(call install,requirements-test.lock)
	@touch $@

lock: dev  ## after a change of pyproject.toml: install what it asks for, and write both lock files
	@$(BIN)/python -m pipeline.lock

docs: env  ## write docs/claims.md and the README's table of findings, and copy the full profile's figures to docs/
	@$(BIN)/python -m lab.report.page
	@$(BIN)/python -m pipeline.frontpage

site: env build/sphinx/.installed  ## build/site: findings as executed, guide, API and claims as pages that need no network
	@rm -rf build/site
	@PYTHONPATH=$(CURDIR)/build/sphinx:$(CURDIR) $(BIN)/python -m sphinx -qEW --keep-going -c docs -d build/doctrees . build/site
	@$(BIN)/python tests/site.py build/site
	@echo "open build/site/index.html"

build/sphinx/.installed: requirements-site.lock
	@rm -rf build/sphinx
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --target build/sphinx -r $< || { \
		echo "make site needs the $$(grep -c == $<) packages of $< (Sphinx and others), which pip could not get: once, it needs a network"; exit 1; }
	@touch $@

repro: env  ## restore what is cached, run the rest, say in ten lines what came out
	@$(BIN)/python -m pipeline.repro

record: env  ## after a run: keep its results in dvcstore/, and nothing that no stage needs
	@$(BIN)/python -m pipeline.record

test: dev  ## lint, types, tests, notebooks, and the smoke pipeline from scratch
	@.ci/test

kill: dev  ## kill trainings at 100 random moments, and see that nothing is lost
	@$(BIN)/dvc pull -q data/fashion-mnist.dvc && $(BIN)/python tests/kill.py

mutants: dev  ## change constants of zsnr one at a time, and see the claims' checks flip
	@$(BIN)/python tests/mutants.py

peers: dev  ## diffusers' own tests with our scheduler, from a checkout of diffusers in .peers/diffusers
	@$(BIN)/python tests/peers

notebooks: env  ## execute every notebook pair again, with default parameters
	@for name in 00_start_here explorer stages findings; do $(BIN)/python -m pipeline.nbrun $$name; done

explorer: env  ## serve the explorer as an app, in the browser
	@JUPYTER_PATH=pipeline/jupyter $(BIN)/voila notebooks/explorer.ipynb --template=offline \
		--VoilaConfiguration.extension_denylist=jupyterlab-jupytext

bench: env  ## time and error against diffusers, and against k-diffusion, azula and smalldiffusion where installed
	@$(BIN)/python -m benchmarks

versions: env  ## run the tests on the oldest and newest versions, on each Python that is found
	@$(BIN)/python -m pipeline.versions

lint: dev  ## put the code in order, then check style and types
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format . && $(BIN)/mypy

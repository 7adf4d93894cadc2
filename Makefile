# The verbs of the project. `make` alone lists them.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
PYTHON ?= python3
UV_VERSION := 0.13.8
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv

help: ## List the verbs
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

run: $(VENV)/.serve ## Serve the demo family: the environment, Ray, the gateway, calibrated on this host
	$(BIN)/gearshift serve

test: $(VENV)/.dev $(VENV)-kserve/.done $(VENV)-perf/.done ## Run the whole test suite
	$(BIN)/python -m pytest

triton-compare: $(VENV)/.dev $(VENV)-triton/.done ## Hold one conversation with Triton itself and with ours, and compare
	$(BIN)/python -m pytest tests/integration/test_triton_compare.py

check: $(VENV)/.dev ## Format, lint, types, import contracts
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev ## Rewrite the code in the project's format
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: $(VENV)/.dev ## Compare with hand-written servers and plain Ray Serve, in one run
	$(BIN)/python -m loadtests.bench $(ARGS)

docs: $(VENV)/.dev ## Refresh the measurements, pictures, tables and answers in the documentation
	$(BIN)/python -m docs

image: ## Build the container image with docker, podman or buildah; TAG, LOCK, ENGINE and EXTRA as in the script
	LOCK='$(LOCK)' TAG='$(TAG)' ENGINE='$(ENGINE)' EXTRA='$(EXTRA)' scripts/build-image.sh

zoo: $(VENV)/.dev ## Train and export the demo families again (hours on two cores)
	$(BIN)/python -m models.zoo.fashion.train && $(BIN)/python -m models.zoo.fashion.build
	$(BIN)/python -m models.zoo.text.train && $(BIN)/python -m models.zoo.text.build

lock: $(UV) ## Resolve the dependencies again and write the lock files
	$(UV) pip compile -q --upgrade --generate-hashes --no-header --no-annotate --python-version 3.11 --group dev --group beside-torch --extra compress --extra loadtest pyproject.toml -o requirements/dev.lock
	$(UV) pip compile -q --upgrade --generate-hashes --no-header --no-annotate --python-version 3.11 -c requirements/dev.lock pyproject.toml -o requirements/serve.lock
	$(UV) pip compile -q --upgrade --generate-hashes --no-header --no-annotate --python-version 3.11 -c requirements/serve.lock --extra cloud pyproject.toml -o requirements/cloud.lock
	$(UV) pip compile -q --upgrade --generate-hashes --no-header --no-annotate --python-version 3.11 -c requirements/dev.lock --extra loadtest pyproject.toml -o requirements/loadtest.lock
	$(UV) pip compile -q --upgrade --generate-hashes --no-header --no-annotate --python-version 3.11 requirements/build.in -o requirements/build.lock
	$(UV) pip compile -q --upgrade --generate-hashes --no-header --no-annotate --python-version 3.11 requirements/kserve.in -o requirements/kserve.lock
	$(UV) pip compile -q --no-deps --generate-hashes --no-header --no-annotate --python-version 3.11 requirements/perf.in -o requirements/perf.lock
	$(UV) pip compile -q --upgrade --generate-hashes --no-header --no-annotate --python-version 3.11 requirements/triton.in -o requirements/triton.lock

clean: ## Remove the environments and caches
	rm -rf $(VENV) $(VENV)-kserve $(VENV)-perf $(VENV)-triton build dist *.egg-info .*_cache .hypothesis

$(UV):
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check uv==$(UV_VERSION)

# Only what serving needs; a development environment, once there, serves too.
$(VENV)/.serve: requirements/serve.lock pyproject.toml | $(UV)
	test -e $(VENV)/.dev || $(UV) pip install -q --python $(BIN)/python --require-hashes -r requirements/serve.lock
	$(UV) pip install -q --python $(BIN)/python --no-deps -e .
	touch $@

$(VENV)/.dev: requirements/dev.lock requirements/torch.txt pyproject.toml | $(UV)
	$(UV) pip sync -q --python $(BIN)/python --require-hashes requirements/dev.lock
	$(BIN)/python -m ensurepip >/dev/null
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -r requirements/torch.txt
	$(UV) pip install -q --python $(BIN)/python --no-deps -e .
	touch $@ $(VENV)/.serve

# The KServe client pins other versions than we do: it lives, as at its users', in an environment of its own.
$(VENV)-kserve/.done: requirements/kserve.lock | $(UV)
	$(PYTHON) -m venv $(VENV)-kserve
	$(UV) pip install -q --python $(VENV)-kserve/bin/python --require-hashes -r requirements/kserve.lock
	touch $@

# perf_analyzer is a program inside an old wheel of tritonclient; two of the libraries it wants, where a system has
# none of them, are inside PyTriton's.
$(VENV)-perf/.done: requirements/perf.lock | $(UV)
	$(PYTHON) -m venv --without-pip $(VENV)-perf
	$(UV) pip install -q --python $(VENV)-perf/bin/python --require-hashes --no-deps -r requirements/perf.lock
	mkdir -p $(VENV)-perf/shared
	ln -sfr $(VENV)-perf/lib/python*/site-packages/nvidia_pytriton.libs/libb64-*.so.0d $(VENV)-perf/shared/libb64.so.0d
	ln -sfr $(VENV)-perf/lib/python*/site-packages/nvidia_pytriton.libs/libcudart-*.so.12.* $(VENV)-perf/shared/libcudart.so.12
	touch $@

# Triton itself, as PyTriton brings it. Not part of `make test`.
$(VENV)-triton/.done: requirements/triton.lock | $(UV)
	$(PYTHON) -m venv --without-pip $(VENV)-triton
	$(UV) pip install -q --python $(VENV)-triton/bin/python --require-hashes -r requirements/triton.lock
	touch $@

.PHONY: help run test triton-compare check format bench docs image zoo lock clean

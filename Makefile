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

test: $(VENV)/.dev $(VENV)-kserve/.done ## Run the whole test suite
	$(BIN)/python -m pytest

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

zoo: $(VENV)/.dev ## Train and export the demo families again (hours on two cores)
	$(BIN)/python -m models.zoo.fashion.train $(ARGS)

lock: $(UV) ## Resolve the dependencies again and write the lock files
	$(UV) pip compile -q --upgrade --generate-hashes --no-header --no-annotate --python-version 3.11 --group dev --group beside-torch --extra compress --extra loadtest pyproject.toml -o requirements/dev.lock
	$(UV) pip compile -q --upgrade --generate-hashes --no-header --no-annotate --python-version 3.11 -c requirements/dev.lock pyproject.toml -o requirements/serve.lock
	$(UV) pip compile -q --upgrade --generate-hashes --no-header --no-annotate --python-version 3.11 -c requirements/serve.lock --extra cloud pyproject.toml -o requirements/cloud.lock
	$(UV) pip compile -q --upgrade --generate-hashes --no-header --no-annotate --python-version 3.11 requirements/kserve.in -o requirements/kserve.lock

clean: ## Remove the environments and caches
	rm -rf $(VENV) $(VENV)-kserve build dist *.egg-info .*_cache .hypothesis

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

.PHONY: help run test check format bench docs zoo lock clean

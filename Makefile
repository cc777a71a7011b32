# Plain `make` prints the help: the texts after ## in this file.

## Train and compare variational autoencoders. Run first, for a small sweep:
##
##   make sweep ARGS="--config=configs/digits.py:tiny --workdir=runs/tiny"
##
## and then `make sweep`. Each target first installs into VENV what it needs.
##
## Variables, as in `make test ARGS=tests/test_views.py`:
##   PYTHON     the Python that makes VENV, 3.11 or newer
PYTHON ?= python3
##   VENV       the folder of the virtual environment
VENV ?= .venv
##   ARGS       options of the command that the target runs
ARGS ?=
BIN := $(VENV)/bin

.PHONY: help sweep quick test slow-test faults lint clean

##
## Targets:
help:  ## prints this help
	@awk '/^##/ {sub(/^## ?/, ""); print; next} \
	  /^[a-z-]+:.*## / {name = $$1; sub(/^.*## /, ""); \
	    sub(/:/, "", name); printf "  %-10s %s\n", name, $$0}' $(firstword $(MAKEFILE_LIST))

sweep: $(VENV)/.installed  ## trains the main job, or another with ARGS=--config=FILE, and writes a report
	$(BIN)/python -m experiments.sweep $(ARGS)

QUICK := $(addprefix tests/test_,architecture.py views.py diagnostics_two_samples.py \
	evidence_linear_gaussian.py evidence_sandwich.py fitted_prior.py hierarchies.py \
	objectives_aggregate.py measure.py readme.py \
	command_lines.py::test_a_sweep_leaves_all_it_promises)

# Small programs that run once: compiling them takes far longer than running them.
quick test: export XLA_FLAGS := --xla_backend_optimization_level=0 \
	--xla_llvm_disable_expensive_passes=true \
	--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters \
	--xla_cpu_parallel_codegen_split_count=1 $(XLA_FLAGS)
quick: $(VENV)/.installed  ## the shortest useful tests: every part of the library, and one sweep
	$(BIN)/python -m pytest $(QUICK) $(ARGS)

test: $(VENV)/.installed  ## all fast tests
	$(BIN)/python -m pytest $(ARGS)

slow-test: $(VENV)/.installed  ## the scientific tests, which train to convergence
	$(BIN)/python -m pytest -m slow $(ARGS)

faults: $(VENV)/.installed  ## kills, starves and feeds rubbish to real processes
	$(BIN)/python -m pytest tests/faults -m faults $(ARGS)

lint: $(VENV)/.installed  ## checks style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "vae_jax needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[test,tfds,stream]'
	@touch $@

clean:  ## removes VENV
	rm -rf $(VENV)

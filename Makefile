# `make sweep` and `make test` do all their set-up themselves on a fresh machine.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: sweep quick test slow-test faults lint clean

sweep: $(VENV)/.installed
	$(BIN)/python -m experiments.sweep $(ARGS)

# Exact answers of every part of the library, and a command line that trains: a minute.
QUICK := $(addprefix tests/test_,architecture.py views.py diagnostics_two_samples.py \
	evidence_linear_gaussian.py evidence_sandwich.py fitted_prior.py hierarchies.py \
	objectives_aggregate.py measure.py readme.py \
	command_lines.py::test_a_sweep_leaves_all_it_promises)

# Small programs that run once: compiling them takes far longer than running them.
quick test: export XLA_FLAGS := --xla_backend_optimization_level=0 \
	--xla_llvm_disable_expensive_passes=true \
	--xla_cpu_parallel_codegen_split_count=1 $(XLA_FLAGS)
test: $(VENV)/.installed
	$(BIN)/python -m pytest $(ARGS)

quick: $(VENV)/.installed
	$(BIN)/python -m pytest $(QUICK) $(ARGS)

slow-test: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow $(ARGS)

faults: $(VENV)/.installed
	$(BIN)/python -m pytest tests/faults -m faults $(ARGS)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "vae_jax needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[test,tfds,stream]'
	@touch $@

clean:
	rm -rf $(VENV)

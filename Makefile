# Two commands do all set-up on a fresh machine: make mnist, make test. For work on it: make quick, make check,
# make docs.
#   PYTHON=...  the interpreter to use; by default the newest usable one is looked for
#   ARGS=...    further arguments of examples/mnist.py, pytest, .ci/sanitize.py or the benchmark

PYTHON ?=
ARGS ?=

CANDIDATES = $(or $(PYTHON),python3.13 python3.12 python3.11 python3.10 python3.9 python3.8 python3 python)
# Prints the version of a Python that the package supports and that can make a virtual environment.
PROBE = import sys, venv, ensurepip; assert (3, 8) <= sys.version_info[:2] <= (3, 13); print("%d.%d" % sys.version_info[:2])
FOUND := $(shell for python in $(CANDIDATES); do \
	version=$$($$python -c '$(PROBE)' 2>/dev/null) && echo $$python $$version && break; done)
VENV = .venv/$(lastword $(FOUND))
# The Pythons for which setup.py does not ask for MXNet.
WITHOUT_MXNET = 3.13

# What each room does above all, in about a minute, for after each change. Left out is what compares many shapes, priors
# and estimators with each other, other kinds of arrays and numbers, all that runs examples or other processes, and
# the rest of the tests; make test has it all.
QUICK = _mxnet/test_contexts _mxnet/test_copies posterior forward/test_collect native layers/test_block \
	layers/test_layers layers/test_recurrent layers/test_transposed networks/test_deterministic networks/test_prune \
	networks/test_sparse networks/test_to_bayesian prediction/test_metrics prediction/test_predict \
	prediction/test_uncertainty plot training/test_finite training/test_labels training/test_likelihoods \
	training/test_loss training/test_schedules checkpoint/test_checkpoint checkpoint/test_old_files \
	checkpoint/test_trainer_states examples/test_example_parser test_docs test_rooms test_seeds

.PHONY: mnist test quick smoke check sanitize docs docs-python benchmark clean python

mnist: $(VENV)/test-installed
	$(VENV)/bin/python examples/mnist.py $(if $(findstring --output,$(ARGS)),,--output results/mnist \
	    $(if $(findstring --resume,$(ARGS)),,--overwrite)) $(ARGS)

test: $(VENV)/test-installed
	$(VENV)/bin/python -m pytest -n auto $(ARGS)

quick: $(VENV)/test-installed
	$(VENV)/bin/python -m pytest -n auto -m "not slow and not costly" \
	    $(foreach name,$(QUICK),$(wildcard tests/$(name) tests/$(name).py)) $(ARGS)

# Some tests on the oldest and the newest Python that this machine has.
smoke: $(VENV)/test-installed
	$(VENV)/bin/python .ci/versions.py --smoke

check: $(VENV)/check-installed
	$(VENV)/bin/python -m ruff check
	$(VENV)/bin/python -m mypy
	$(VENV)/bin/python .ci/package.py

# The kernels in C++, without MXNet.
sanitize: | python
	$(firstword $(FOUND)) .ci/sanitize.py $(ARGS)

docs: docs-python $(VENV)/docs-installed
	$(VENV)/bin/python -m sphinx -q -W --keep-going -b html docs build/docs
	@echo "The pages are in build/docs: open build/docs/index.html."

benchmark: | python
	$(firstword $(FOUND)) examples/benchmark/peers.py $(ARGS)

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

python:
	@test -n "$(FOUND)" || { \
	  echo "No usable Python found among: $(CANDIDATES)." >&2; \
	  echo "bbb_layers needs CPython 3.8 to 3.13, with its venv module (Debian: python3-venv)." >&2; \
	  echo "Install one, or name one: make test PYTHON=/path/to/python3.11" >&2; exit 1; }

# Before anything is installed for them.
docs-python: | python
	@test "$(lastword $(FOUND))" != 3.8 -a "$(lastword $(FOUND))" != 3.9 || { \
	  echo "make docs needs Python 3.10 or later (this is $(lastword $(FOUND))); name one: make docs PYTHON=python3.11" >&2; \
	  exit 1; }

# The extra that a target needs, installed anew only when what is to be installed has changed. For CPython 3.13 there is
# no NumPy that fits MXNet's metadata, so MXNet is installed without what it asks for, and pip need not warn of it.
$(VENV)/%-installed: setup.py | python
	$(firstword $(FOUND)) -m venv $(VENV)
	$(if $(filter $(WITHOUT_MXNET),$(lastword $(FOUND))),$(VENV)/bin/python -m pip install --quiet --no-deps mxnet==1.9.1)
	$(VENV)/bin/python -m pip install --quiet --no-warn-conflicts --editable '.[$*]'
	@touch $@

# Every target sets up what it needs in .venv; nothing has to be installed by hand but Python 3.11 to 3.13.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Threads that spin while they wait for each other make a shared machine up to 30 times slower.
export OMP_WAIT_POLICY := PASSIVE
# A short spin before they sleep: without one, a quiet virtual machine trained 2.6 times slower.
export GOMP_SPINCOUNT := 30000
# Compiled files are kept: without them, every process would compile the package and rewrite the tests' assertions again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart test test-faults test-distributed test-architectures test-harness test-slurm lint types docs dist perf architectures real-data clean

quickstart: $(VENV)/ready
	$(BIN)/crosstask toybench --folder runs/quickstart/toybench
	$(BIN)/crosstask fit --config quickstart --ckpt_path last  # a finished or interrupted run is not trained again
	$(BIN)/crosstask test --config quickstart --ckpt_path runs/quickstart/checkpoints/last.ckpt

# Two processes share the files of tests, the long ones first (tests/conftest.py).
TWO := -n 2 --dist loadfile --no-loadscope-reorder

test: export OMP_NUM_THREADS := 1
test: $(VENV)/ready
	$(BIN)/python -m pytest $(TWO) -m "not real_data and not distributed and not slurm and not faults"

# The files with tests of a kind: collecting all others takes half a minute.
files = $$(grep -rlE --include='test_*.py' 'mark\.$(1)' tests)

CASES ?= 15
test-faults: export OMP_NUM_THREADS := 1
test-faults: $(VENV)/ready  # kills, flipped bits, any input, a long run; CASES of each kind
	@$(BIN)/python -m pip install -q -e ".[fuzz]" -c constraints.txt || echo "atheris does not install here: its test is skipped"
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "faults and not distributed" --fault-cases $(CASES) $(call files,faults)

test-distributed: export OMP_NUM_THREADS := 1  # a sum by two threads differs in its last digit from one by two processes
test-distributed: $(VENV)/ready  # every cell of docs/strategies.md that processes on a CPU can run
	$(BIN)/python -m pytest $(TWO) -m distributed $(call files,distributed)

test-architectures: export OMP_NUM_THREADS := 1
test-architectures: $(VENV)/ready  # every row of docs/architectures.md, in about an hour
	CROSSTASK_ARCHITECTURES=all $(BIN)/python -m pytest -n 2 tests/experiments/test_architecture_table.py

test-harness: export OMP_NUM_THREADS := 1
test-harness: $(VENV)/with-harness  # the evaluation's page with lm-evaluation-harness, equal log-likelihoods
	$(BIN)/python -m pytest tests/examples/test_in_lm_evaluation_harness.py

test-slurm: $(VENV)/ready  # starts a SLURM cluster of two nodes on this machine, where it may
	@command -v slurmctld >/dev/null || { [ "$$(id -u)" = 0 ] && timeout 300 apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive timeout 300 apt-get install -y -qq slurm-wlm munge; } >/dev/null 2>&1 || \
	  echo "SLURM is not installed and could not be: its tests are skipped (slurm-wlm, munge, root)"
	$(BIN)/python -m pytest -m slurm $(call files,slurm)

real-data: export OMP_NUM_THREADS := 1
real-data: $(VENV)/ready  # needs CROSSTASK_DATA
	$(BIN)/python -m pytest $(TWO) -m real_data $(call files,real_data)

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy finds the package under its import name through a link to the repository's root.
types: $(VENV)/ready
	mkdir -p .types && ln -sfn .. .types/crosstask
	MYPYPATH=.types $(BIN)/mypy -p crosstask.datamodules -p crosstask.lightning_modules -p crosstask.callbacks -p crosstask.commands -m crosstask.cli

docs: $(VENV)/with-docs  # the site, in build/site
	mkdir -p .types && ln -sfn .. .types/crosstask
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q

dist: $(VENV)/with-release  # the files of a release, in dist
	rm -rf dist && $(BIN)/python -m build -q --no-isolation && $(BIN)/twine check --strict dist/*

perf: $(VENV)/with-perf
	for script in perf/*.py; do $(BIN)/python $$script || exit 1; done
	perf/gpu.sh build/gpu-toy.json --toy

architectures: $(VENV)/ready  # walks all model types of the installed transformers, and rewrites their page
	$(BIN)/python experiments/architecture_table.py > docs/architectures.new && mv docs/architectures.new docs/architectures.md

$(VENV)/ready: setup.cfg constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -e ".[test,dev]" -c constraints.txt
	touch $@

# The libraries of an extra of setup.cfg, installed once.
$(VENV)/with-%: $(VENV)/ready
	$(BIN)/python -m pip install -q -e ".[$*]" -c constraints.txt
	touch $@

clean:
	rm -rf $(VENV) .types .mypy_cache .ruff_cache .pytest_cache build dist runs

# Two commands matter on a fresh machine with Python 3.11 or later: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1
# Bytecode is kept, also where containers say that none is: each of a hundred processes would compile the same files.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo up test check bench chaos drill images compose-test fmt lock audit docs clean
demo: .venv/ready
	@$(BIN)/qig demo

up: .venv/ready
	@$(BIN)/qig up

# More workers than cores: a third of their time is waiting for what processes do.
test: .venv/ready
	@$(BIN)/pytest -n 4 --dist loadfile --no-loadscope-reorder

check: .venv/ready
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python scripts/docs.py --check

bench: .venv/ready
	@for file in benchmarks/*.py; do $(BIN)/python $$file || exit 1; done

# Random faults, from a seed: 500 scenarios take a quarter of an hour. One alone: make chaos SEED=17 SCENARIOS=1
# The services themselves, ten seconds a scenario: make chaos WORLD=whole SCENARIOS=24
SCENARIOS ?= 500
SEED ?= 0
WORLD ?= light
chaos: .venv/ready
	@$(BIN)/python tests/chaos/run.py --scenarios $(SCENARIOS) --seed $(SEED) --world $(WORLD)

# Each alert made to fire by a real fault, and to clear: minutes. Needs prometheus (Debian's package). Some of them:
# make drill THEMES="state learning"
drill: .venv/ready
	@$(BIN)/python tests/drill/run.py $(THEMES)

# With docker or podman. One or some: make images TARGETS="slim cuda". Flags for the builder: BUILD=--no-cache
TARGETS ?= slim torch-cpu
images:
	@$(PYTHON) scripts/images.py $(TARGETS) $(BUILD)

# Builds the images and runs compose.yaml. With docker, or podman and COMPOSE=/path/to/docker-compose; says why, and is an
# error 77, where containers cannot be run.
compose-test: .venv/ready
	@$(BIN)/python tests/compose/run.py $(BUILD)

fmt: .venv/ready
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

docs: .venv/ready
	@$(BIN)/python scripts/docs.py

# Needs uv (pip install uv). torch is left out but in the image for CUDA: its CPU and CUDA builds share a version and not
# a hash. What the CPU build needs is what the CUDA build needs, less what is NVIDIA's.
lock:
	uv pip compile -q pyproject.toml --universal --generate-hashes --no-annotate --no-header -o requirements.lock
	uv pip compile -q pyproject.toml --group dev --universal -c requirements.lock --generate-hashes --no-annotate --no-header -o requirements-dev.lock
	grep -o 'torch==[^"]*' pyproject.toml | uv pip compile -q - --universal --python-version 3.11 -c requirements.lock --generate-hashes --no-annotate --no-header -o requirements-cuda.lock
	printf '%s\n' filelock fsspec jinja2 networkx setuptools sympy typing-extensions | uv pip compile -q - --universal --python-version 3.11 -c requirements-cuda.lock --generate-hashes --no-annotate --no-header -o requirements-torch-cpu.lock
	grep -o 'runpod==[^"]*' pyproject.toml | uv pip compile -q - --universal --python-version 3.11 -c requirements.lock -c requirements-torch-cpu.lock --generate-hashes --no-annotate --no-header -o requirements-runpod.lock

# Needs pip-audit (pip install pip-audit==2.10.1) and a network to PyPI's advisories; docs/install.md says what to expect.
# A lock at a time: it refuses a package that two of them name.
audit:
	@failed=0; for lock in requirements*.lock; do echo "$$lock"; \
	pip-audit --strict --disable-pip --require-hashes --desc off --progress-spinner off -r $$lock || failed=1; done; exit $$failed

.venv/ready: requirements-dev.lock pyproject.toml
	@echo "once, two to five minutes: pip installs 1.9 GB into .venv, and at the end torch, a third of it, while the kernels are compiled"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@echo "qig warm: compiles the kernels beside what follows, half a minute of a processor and more"
	@$(BIN)/qig warm > .venv/warm.log & $(BIN)/pip install --disable-pip-version-check torch==2.13.0 && wait $$! && cat .venv/warm.log
	@touch $@

clean:
	rm -rf .venv .qig build

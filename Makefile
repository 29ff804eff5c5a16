# make install         create .venv with the pinned packages and virft in editable mode
# make demo            train the built-in model on new classes, in minutes, on a CPU
# make demo-photo      train the built-in model for photographs on 32 labelled micrographs
# make check           what CI runs: lint, typecheck, and every test and doctest
# make lint            ruff (rules and format), import contracts
# make typecheck       mypy, strict
# make test-fast       unit tests and doctests without the slow ones; about a minute on two cores
# make test            every test and doctest
# make coverage        line and branch coverage of unit tests and doctests
# make docs            build the documentation site into site/; a broken link fails
# make dist            build wheel and source archive of the commit twice, compare them, and write them into dist/
# make fuzz            coverage-guided fuzzing of every parser, FUZZ_SECONDS each (60)
# make mutants         mutation testing of rewards, parsing and loss
# make crash-test      kill runs CRASH_KILLS times (200) at moments of CRASH_SEED (0), and resume them; half an hour
# make test-gpu        on a machine with a GPU: parity tests in float32, then throughput and memory; about 10 minutes
# make test-app        `virft app` in a real browser; needs Chromium (Debian: apt-get install chromium)
# make test-vllm       sampling with vLLM, on a CPU; 3 GB of packages
# make test-deepspeed  training steps with DeepSpeed ZeRO, two processes on a CPU; needs a C++ compiler
# Arguments for pip: make install PIP_ARGS="--no-index --find-links wheels"

PYTHON ?= python3
PIP_ARGS ?=
# All tests of a file run in one worker, so that it makes the file's fixtures once; files in the order of their folders.
PYTEST_ARGS ?= -n auto --dist loadfile --no-loadscope-reorder
DEMO_DIR ?= runs/quickstart
DEMO_ARGS ?=
FUZZ_SECONDS ?= 60
CRASH_KILLS ?= 200
CRASH_SEED ?= 0
VIRFT_TEST_DATA ?= ../shared/data

BIN := .venv/bin
INSTALLED := .venv/.installed

APP := .venv-app
APP_INSTALLED := $(APP)/.installed

VLLM := .venv-vllm
VLLM_INSTALLED := $(VLLM)/.installed

ZERO := .venv-deepspeed
ZERO_INSTALLED := $(ZERO)/.installed

.PHONY: install demo demo-photo check lint typecheck test test-fast coverage docs dist fuzz mutants crash-test test-app test-gpu \
	test-vllm test-deepspeed

demo: $(INSTALLED)
	$(BIN)/virft quickstart $(DEMO_DIR) $(DEMO_ARGS)

demo-photo: $(INSTALLED)
	$(BIN)/virft quickstart --photo $(DEMO_ARGS)

check: lint typecheck test

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

typecheck: $(INSTALLED)
	$(BIN)/mypy

# Tests on real images are skipped, with the reason, if the folder does not exist.
PYTEST = VIRFT_TEST_DATA="$(abspath $(VIRFT_TEST_DATA))" $(BIN)/python -m pytest $(PYTEST_ARGS)
FAST := src tests/unit

test: $(INSTALLED)
	$(PYTEST) --durations=15

test-fast: $(INSTALLED)
	$(PYTEST) -m "not slow" $(FAST)

coverage: $(INSTALLED)
	$(PYTEST) --cov --cov-report=term $(FAST)

test-gpu: $(INSTALLED)
	VIRFT_TEST_DEVICE=cuda $(BIN)/python -m pytest -p no:xdist tests/parity
	$(BIN)/python benchmarks/gpu_step.py

# An environment of its own: Gradio needs another Pillow than virft is tested with.
test-app: $(APP_INSTALLED)
	@command -v chromium >/dev/null || { echo "test-app: chromium not found; expected it on the PATH"; exit 1; }
	$(APP)/bin/python -m pytest -m browser tests/e2e/test_app.py

fuzz: $(INSTALLED)
	$(BIN)/python -m pip install $(PIP_ARGS) -c constraints.txt -e ".[fuzz]"
	$(BIN)/python fuzz/guided.py answers -max_total_time=$(FUZZ_SECONDS)
	$(BIN)/python fuzz/guided.py configs -max_total_time=$(FUZZ_SECONDS)
	$(BIN)/python fuzz/guided.py lines -max_total_time=$(FUZZ_SECONDS)

docs: $(INSTALLED)
	$(BIN)/python -m mkdocs build --strict

dist: $(INSTALLED)
	$(BIN)/python scripts/build_release.py dist

mutants: $(INSTALLED)
	$(BIN)/python -m pip install $(PIP_ARGS) -c constraints.txt -e ".[mutation]"
	OMP_NUM_THREADS=1 $(BIN)/mutmut run
	$(BIN)/mutmut results

crash-test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python fuzz/crash.py $(CRASH_KILLS) --seed $(CRASH_SEED)

# An environment of its own: vLLM pins a hundred packages. One engine at a time, so one process.
test-vllm: $(VLLM_INSTALLED)
	$(VLLM)/bin/python -m pytest -m vllm tests/on_vllm

# An environment of its own: DeepSpeed is built at installation, and compiles its communication operators.
test-deepspeed: $(ZERO_INSTALLED)
	$(ZERO)/bin/python -m pytest -m deepspeed tests/on_deepspeed

install: $(INSTALLED)

# PyTorch first: PIP_ARGS can then select its index or wheel without changing the other packages.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(PIP_ARGS) -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install $(PIP_ARGS) -c constraints.txt -e ".[dev]"
	touch $@

$(APP_INSTALLED): pyproject.toml constraints.txt constraints-app.txt
	test -x $(APP)/bin/python || $(PYTHON) -m venv $(APP)
	grep -v "^pillow==" constraints.txt | cat - constraints-app.txt > $(APP)/constraints.txt
	$(APP)/bin/python -m pip install $(PIP_ARGS) -c $(APP)/constraints.txt torch==2.13.0
	$(APP)/bin/python -m pip install $(PIP_ARGS) -c $(APP)/constraints.txt -e ".[dev,browser]"
	touch $@

$(ZERO_INSTALLED): pyproject.toml constraints.txt
	test -x $(ZERO)/bin/python || $(PYTHON) -m venv $(ZERO)
	$(ZERO)/bin/python -m pip install $(PIP_ARGS) -c constraints.txt torch==2.13.0
	$(ZERO)/bin/python -m pip install $(PIP_ARGS) -c constraints.txt -e ".[dev,deepspeed]"
	touch $@

$(VLLM_INSTALLED): pyproject.toml constraints.txt constraints-vllm.txt scripts/declare_torchvision.py
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	grep -vE "^(numpy|protobuf|setuptools)==" constraints.txt | cat - constraints-vllm.txt > $(VLLM)/constraints.txt
	$(VLLM)/bin/python -m pip install $(PIP_ARGS) -c $(VLLM)/constraints.txt torch==2.13.0
	$(VLLM)/bin/python -m pip install $(PIP_ARGS) --no-deps -r constraints-vllm.txt
	$(VLLM)/bin/python -m pip install $(PIP_ARGS) -c $(VLLM)/constraints.txt -e ".[dev]"
	$(VLLM)/bin/python scripts/declare_torchvision.py
	touch $@

# make demo    the built-in model learns to detect new classes, in minutes, on a CPU
# make test    every test
# make test-app  the page of `virft app` in a real browser; needs Chromium (Debian: apt-get install chromium)
# make coverage  lines and branches that the unit tests reach
# make fuzz    every reader with whatever atheris finds, FUZZ_SECONDS each (60)
# make mutants  faults put into rewards, reading and loss one at a time: does a test notice?
# make crash-test  runs killed CRASH_KILLS times (200) at moments of CRASH_SEED (0), and gone on with; half an hour
# make test-vllm  sampling with vLLM, on a CPU; 3 GB of packages
# make test-deepspeed  a step shared out by DeepSpeed's ZeRO, two processes on a CPU; needs a C++ compiler
# make docs    the documentation as a site, into site/; a broken link fails
# make dist    wheel and source archive of the commit, built twice and compared, into dist/
# make check   style, types, import directions, and every test
# Extra arguments for pip: make test PIP_ARGS="--no-index --find-links wheels"

PYTHON ?= python3
PIP_ARGS ?=
PYTEST_ARGS ?= -n auto
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

.PHONY: demo test coverage mutants test-app test-vllm test-deepspeed fuzz crash-test docs dist check install

demo: $(INSTALLED)
	$(BIN)/virft quickstart $(DEMO_DIR) $(DEMO_ARGS)

# Tests that need the data are skipped, and say so, where the folder does not exist.
test: $(INSTALLED)
	VIRFT_TEST_DATA="$(abspath $(VIRFT_TEST_DATA))" $(BIN)/python -m pytest $(PYTEST_ARGS)

coverage: $(INSTALLED)
	VIRFT_TEST_DATA="$(abspath $(VIRFT_TEST_DATA))" $(BIN)/python -m pytest $(PYTEST_ARGS) --cov --cov-report=term src tests/unit

# A place of its own: Gradio wants another Pillow than virft is tested with.
test-app: $(APP_INSTALLED)
	@command -v chromium >/dev/null || { echo "test-app: no chromium here; expected it on the PATH"; exit 1; }
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

# A place of its own: vLLM fixes the versions of a hundred packages. One engine at a time, so one process.
test-vllm: $(VLLM_INSTALLED)
	$(VLLM)/bin/python -m pytest -m vllm tests/on_vllm

# A place of its own: DeepSpeed is built when it is installed, and compiles what sends between processes.
test-deepspeed: $(ZERO_INSTALLED)
	$(ZERO)/bin/python -m pytest -m deepspeed tests/on_deepspeed

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) test

install: $(INSTALLED)

# PyTorch first: its index or wheel can then be chosen by PIP_ARGS without touching the rest.
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

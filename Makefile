# Each target sets up what it needs in .venv; nothing has to be installed by hand.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH_READY := $(VENV)/.ready-bench
SOURCES := pyproject.toml constraints.txt ops/CMakeLists.txt ops/cuda.cmake $(shell find ops/csrc -type f)

# Threads that spin while they wait slow everything down on a machine that does something else as well.
export OMP_WAIT_POLICY ?= PASSIVE
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test wheel wheel-aarch64 soak matrix lint sanitize bench bench-ops gpu-check gpu-bench clean
.DEFAULT_GOAL := test

demo: $(READY)  ## train, convert, prove, compile, time; DATA=folder for real images, ARGS for `mbu demo --help`
	$(BIN)/mbu demo $(if $(DATA),--data $(DATA)) $(ARGS)

test: $(READY)  ## everything but lint, on up to four cores; ARGS for pytest
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

soak: $(READY)  ## random runs against everything that must not break, every job; ARGS as `files --share 0.1 --seed 3`
	PYTHONPATH=tests $(BIN)/python -m soak $(ARGS)

matrix: $(READY)  ## every smp architecture and encoder, all the way, into docs/models.md; ARGS for pytest, -k for a part
	MBU_MATRIX=all MBU_MATRIX_RESULTS=docs/results/models.json $(BIN)/python -m pytest -q -n auto --maxprocesses 4 tests/matrix $(ARGS)
	MBU_MATRIX=all $(BIN)/python -m pytest -q tests/matrix -k page

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/clang-format --dry-run --Werror $$(find ops/csrc tests/ops -name '*.cpp' -o -name '*.h')

sanitize: $(READY)  ## kernels and the random suite under AddressSanitizer and UBSan, then ThreadSanitizer; SHARE of `make soak`
	set -e; for sanitizers in address,undefined thread; do \
		MBU_SANITIZE=$$sanitizers $(BIN)/python -m pytest -q tests/ops/test_cross.py tests/ops/amx; \
		$(BIN)/python tests/sanitized $$sanitizers -m pytest -q -n 1 tests/ops --ignore tests/ops/cuda --ignore tests/ops/amx \
			--deselect tests/ops/test_cross.py; \
		$(BIN)/python tests/sanitized $$sanitizers -m soak kernels limits threads files --share $(or $(SHARE),0.1); \
	done

bench: $(BENCH_READY)  ## packed networks against every other way to run them; ARGS for `mbu bench --help`
	$(BIN)/mbu bench --results docs/results $(ARGS)

bench-ops: $(READY)  ## single one-bit convolutions, kernel by kernel, shapes from text files
	$(BIN)/python ops/bench/bench_conv2d.py $(ARGS)

gpu-check: $(READY)  ## what the card runs, tested; fails where a kernel is wrong, or where none runs
	-$(BIN)/python -m lightning_mbu doctor
	$(BIN)/python -m pytest -q -W default tests/test_gpu.py tests/test_gpu_tiles.py $(ARGS)

gpu-bench: $(READY)  ## layers and networks on the card, in under ten minutes, into docs/results/gpu.md
	-$(BIN)/python -m pip install -q nvidia-ml-py
	$(BIN)/python -m lightning_mbu.bench.gpu --results docs/results $(ARGS)

wheel: $(READY)  ## dist/*.whl, with every kernel that the compilers here can build
	$(BIN)/python -m pip wheel -q -c constraints.txt --no-deps -w dist .

wheel-aarch64: $(READY)  ## the same for 64-bit Arm Linux, on any machine with aarch64-linux-gnu-g++
	_PYTHON_HOST_PLATFORM=linux-aarch64 CMAKE_TOOLCHAIN_FILE=$(CURDIR)/ops/aarch64.cmake \
		$(BIN)/python -m pip wheel -q -c constraints.txt --no-deps -w dist .

# torch first: the library is built against the headers of the torch that is installed. CUTLASS, whose products a build
# with nvcc carries, without what its other parts need.
$(READY): $(SOURCES)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lightning-mbu needs Python 3.11 or newer; give one with make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch torchvision
	$(BIN)/python -m pip install -q -c constraints.txt --no-deps nvidia-cutlass
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@touch $@

# The other runtimes are many and large; only the benchmark needs them.
$(BENCH_READY): $(READY)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,bench]'
	@touch $@

clean:
	rm -rf $(VENV) build

# Everything runs from the checkout; the only things needed beforehand are Python 3.11 to 3.13 and make.
# All paths below are relative, so that a checkout path with a space in it works.

PYTHON ?= python3
WORKERS ?= 2
PYTEST_ARGS ?=
BENCH_ARGS ?=

UV_ON_PATH := $(shell uv --version >/dev/null 2>&1 && command -v uv 2>/dev/null)
UV := $(or $(UV_ON_PATH),.uv/bin/uv)
UV_BUILT := $(if $(UV_ON_PATH),,.uv/bin/uv)

BENCHES := bench-kill bench-hostile bench-tiny bench-digits bench-quickstart bench-quickstart-choice bench-unroll bench-memory bench-photos bench-photo-presets bench-mnist bench-cifar10-wang bench-trajectories bench-m-datm bench-cifar10-cpu bench-flatness bench-ftd-subset bench-gpu bench-steps bench-kernels bench-peers bench-peers-profile bench-growth bench-nothing-moved bench-nb201-sets bench-nb201 bench-nas-cpu bench-nas-search bench-nas-throughput bench-sre2l-cpu bench-sre2l-speed bench-sre2l-bank bench-transfer-cpu bench-adaptation bench-continual-cpu bench-continual-sre2l bench-compare bench-mutations

.DEFAULT_GOAL := install
.PHONY: install quickstart test check lock build clean tables rooms $(BENCHES)

install: .venv/installed-project

quickstart: install
	.venv/bin/dd-apps quickstart

# One thread a worker: two workers with two threads each would fight for two cores. Files in the order of `testpaths`, the
# slow ones first, so that neither worker ends long before the other.
test: install
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

check: install
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports
	.venv/bin/basedpyright

# `make lock LOCK_ARGS=--upgrade` takes the newest releases; without it only what changed in pyproject.toml moves.
lock: $(UV_BUILT)
	"$(UV)" pip compile --quiet --universal --python-version 3.11 --all-extras --group dev --generate-hashes \
		--no-emit-index-url --custom-compile-command "make lock" $(LOCK_ARGS) pyproject.toml -o requirements.lock

build: install
	.venv/bin/python -m build --no-isolation

$(BENCHES): bench-%: install
	.venv/bin/python benchmarks/$(subst -,_,$*).py $(BENCH_ARGS)

# Rooms, arrows, circles, long files and late imports, counted; tests/unit/test_rooms.py holds them to their limits.
rooms: install
	.venv/bin/python benchmarks/rooms.py

# The blocks of REPRODUCIBILITY.md that have a record, from benchmarks/results/*.jsonl.
tables: install
	.venv/bin/python benchmarks/tables.py

clean:
	rm -rf dist .pytest_cache .ruff_cache .import_linter_cache
	find core dd_apps tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# -- set-up: uv, the environment, the locked packages, the project ------------------------------------------------

define USABLE_PYTHON
import sys
found = sys.version_info[:2]
if not (3, 11) <= found <= (3, 13):
    sys.exit(f"error: {sys.executable} is Python {found[0]}.{found[1]}; dd-apps needs 3.11 to 3.13: make PYTHON=/path/to/python3.12")
endef
define USABLE_VENV
import importlib.util, sys
if not importlib.util.find_spec("ensurepip"):
    sys.exit(f"error: {sys.executable} cannot make a venv (no ensurepip): apt install python{sys.version_info[0]}.{sys.version_info[1]}-venv")
endef
export USABLE_PYTHON USABLE_VENV

.uv/bin/uv:
	@"$(PYTHON)" -c "$$USABLE_PYTHON"
	@"$(PYTHON)" -c "$$USABLE_VENV"
	rm -rf .uv
	"$(PYTHON)" -m venv .uv
	.uv/bin/python -m pip install --quiet uv

.venv/bin/python: | $(UV_BUILT)
	@"$(PYTHON)" -c "$$USABLE_PYTHON"
	rm -rf .venv
	"$(UV)" venv --quiet --python "$$("$(PYTHON)" -c 'import sys; print(sys.executable)')" .venv

# Byte code is compiled once here: tests start many processes, and importing torch without it takes three times as long.
.venv/installed-lock: requirements.lock | .venv/bin/python
	"$(UV)" pip sync --python .venv/bin/python --require-hashes --compile-bytecode requirements.lock
	touch $@

# The build backend comes from the lock, so this step needs no network.
.venv/installed-project: pyproject.toml .venv/installed-lock
	"$(UV)" pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
	touch $@

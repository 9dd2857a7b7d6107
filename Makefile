# make demo: the whole pipeline on real images.   make test: the tests.   Both set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
READY := $(VENV)/.ready
EXTRAS := pipeline transfer backbones export data team dev
export PATH := $(BIN):$(PATH)
export DO_NOT_TRACK := true
.PHONY: setup setup-dev demo transfer-demo study check test test-fast test-long lint bench lock clean

setup: $(READY)

# uv where it is there or can be had, which takes seconds; else pip, which takes minutes.
define install
$(BIN)/python .ci/needs.py $(1) > $(VENV)/needs.txt
{ command -v uv >/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv; } 2>/dev/null && \
  UV_SYSTEM_CERTS=true UV_NATIVE_TLS=true uv pip install --quiet --no-cache --python $(BIN)/python \
    --constraint requirements.lock --requirement $(VENV)/needs.txt 2>$(VENV)/uv.log || \
  $(BIN)/python -m pip install --quiet --disable-pip-version-check \
    --constraint requirements.lock --requirement $(VENV)/needs.txt
endef

# Made again only when what it depends on has changed.
$(READY): requirements.lock pyproject.toml setup.py $(wildcard moco/images/fused_*.cpp moco/images/fused_*.h)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
	  { echo "Python 3.11, 3.12 or 3.13 is needed, $(PYTHON) is $$($(PYTHON) -V); name another: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "No virtual environment could be made; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	$(call install,pipeline)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(READY)

# What the tests and every optional part need, on top of the demo's packages.
setup-dev: $(READY).dev

$(READY).dev: $(READY)
	$(call install,$(EXTRAS))
	@touch $@

demo: setup
	python -m flows.pretrain_and_evaluate

# Detection and segmentation from random, supervised and MoCo weights; begins with what of the demo is not done yet.
transfer-demo: setup-dev
	python -m flows.transfer

# The papers' comparisons on the images of params.yaml, all of them or one: make study STUDY=mechanisms SCALE=paper
STUDY := all
SCALE := laptop
study: setup
	python -m flows.study $(STUDY) --scale $(SCALE)

# Threads that spin while they wait make processes that share cores two to six times slower.
check test test-fast test-long: export OMP_WAIT_POLICY := passive
# For every edit: nothing that starts processes or servers, or trains.
check: setup-dev lint
	pytest -q -n 2 --dist loadfile -m "not slow and not cluster and not processes" --ignore tests/flows --ignore tests/moco/tracking

# Files of tests share the machine two at a time, but for clusters and the fast tests of flows.
test: test-fast
	pytest -n 2 --dist loadfile -m "slow and not cluster and not long"
	pytest -m "cluster and not long"
	@test ! -e /dev/nvidia0 || pytest -m gpu

# What `make test` leaves out (LONG of tests/conftest.py).
test-long: setup-dev
	pytest -n 2 --dist loadfile -m "long and not cluster"
	pytest -m "cluster and long"

test-fast: setup-dev lint
	pytest -n 2 --dist loadfile -m "not slow and not cluster" --ignore tests/flows
	pytest -m "not slow and not cluster" tests/flows

lint: setup-dev
	ruff check .
	ruff format --check .
	codespell
	python tests/words.py
	lint-imports
	mypy

# Peers live in an environment of their own that sees the project's: they can change no version in it.
BENCH := .venv-bench
bench: setup-dev $(BENCH)/.ready
	$(BENCH)/bin/python -m benchmarks.loader
	$(BENCH)/bin/python -m benchmarks.reading
	$(BENCH)/bin/python -m benchmarks.step
	$(BENCH)/bin/python -m benchmarks.epoch
	$(BENCH)/bin/python -m benchmarks.probe
	$(BENCH)/bin/python -m benchmarks.quality
	$(BENCH)/bin/python -m benchmarks.sharding
	python -m benchmarks.transfer_step
	python -m benchmarks.transfer_evaluation
	python -m benchmarks.elsewhere
	python -m benchmarks.overhead
	python -m benchmarks.shuffle_bn
	python -m benchmarks.scaling

$(BENCH)/.ready: pyproject.toml requirements.lock | setup-dev
	test -x $(BENCH)/bin/python || $(BIN)/python -m venv $(BENCH)
	sh benchmarks/peers.sh $(BENCH) $(BIN)
	@touch $@

# The one file that pins every package, for Linux and macOS and each Python; needs uv.
lock:
	uv pip compile pyproject.toml $(EXTRAS:%=--extra %) --universal --python-version 3.11 --no-header \
	  --no-annotate --no-emit-index-url --no-emit-find-links --output-file requirements.lock

clean:
	@printf 'This removes environments, runs and outputs, and what mlflow.db, mlartifacts and servers record. y: do it  ' && \
	  read answer && test "$$answer" = y
	rm -rf $(VENV) $(BENCH) runs outputs/* mlflow.db mlartifacts servers

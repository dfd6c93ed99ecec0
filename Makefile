# Two commands matter: `make demo` runs the main job, `make test` checks everything.
# Both set up what they need in .venv and build/; nothing outside this folder is touched.

PYTHON ?= python3
CC     ?= cc
VENV   := .venv
BIN    := $(VENV)/bin
C_SOURCES := $(wildcard ring/*.c grants/*.c xenblk/*.c xenblk/blkback/*.c xenblk/blkfront/*.c xenblk/emulated/*.c xenblk/xen/*.c xenblk/xenstore/*.c harness/*.c)
C_HEADERS := $(wildcard ring/*.h grants/*.h xenblk/*.h xenblk/blkback/*.h xenblk/blkfront/*.h xenblk/emulated/*.h xenblk/xen/*.h xenblk/xenstore/*.h harness/*.h)
C_TESTS   := $(wildcard tests/native/*.c)
CWARN  := -std=gnu11 -Wall -Wextra -Werror -I.

# The tests start a thousand Pythons: compiling the package anew in each would take more time than all the rest.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint types native-test native-tests compiled-test oracle peers pytest wheel-test bench bench-xenstore bench-peers differential dist clean soak xen-lab xen-test xen-conform

demo: $(VENV)/ready
	@PATH="$(CURDIR)/$(BIN):$$PATH" tests/demo.sh

# Compilers wait for nothing, the tests in Python mostly for each other's processes: side by side they take half.
test:
	@$(MAKE) --no-print-directory -j2 lint types oracle peers
	@$(MAKE) --no-print-directory -j2 pytest compiled-test
	@echo "make test: everything passed"

compiled-test:
	@$(MAKE) --no-print-directory native-test
	@$(MAKE) --no-print-directory wheel-test

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@for f in $(C_SOURCES); do $(CC) $(CWARN) -O2 -fsyntax-only $$f || exit 1; done

types: $(VENV)/ready build/typing/xenblk
	MYPYPATH=build/typing $(BIN)/mypy -p xenblk -p lab

# mypy cannot follow setuptools' package-dir mapping, so it gets a tree of links.
build/typing/xenblk: Makefile
	@rm -rf $@ && mkdir -p $@
	@for f in xenblk/*; do ln -s "$(CURDIR)/$$f" $@/; done
	@for d in ring grants harness; do ln -s "$(CURDIR)/$$d" $@/; done
	@ln -sfn "$(CURDIR)/lab" build/typing/lab

# Each C test with all C sources, under two sanitizers; the sources are compiled once for each.
ASAN := -g -O1 -pthread -fsanitize=address,undefined -fno-sanitize-recover=all
TSAN := -g -O1 -pthread -fsanitize=thread -Wno-error=tsan

native-test:
	@$(MAKE) --no-print-directory -j$$(nproc) native-tests

.SECONDARY: # objects serve every test
native-tests: $(foreach kind,asan tsan,$(patsubst tests/native/%.c,build/native/%.$(kind).ok,$(C_TESTS)))

build/native/asan/%.o: %.c $(C_HEADERS)
	@mkdir -p $(@D)
	@$(CC) $(CWARN) $(ASAN) -c -o $@ $<

build/native/tsan/%.o: %.c $(C_HEADERS)
	@mkdir -p $(@D)
	@$(CC) $(CWARN) $(TSAN) -c -o $@ $<

build/native/%.asan.ok: tests/native/%.c $(C_SOURCES:%.c=build/native/asan/%.o) $(C_HEADERS) $(wildcard tests/native/*.h)
	@$(CC) $(CWARN) $(ASAN) -o build/native/$*.asan $(filter %.c %.o,$^)
	build/native/$*.asan
	@touch $@

build/native/%.tsan.ok: tests/native/%.c $(C_SOURCES:%.c=build/native/tsan/%.o) $(C_HEADERS) $(wildcard tests/native/*.h)
	@$(CC) $(CWARN) $(TSAN) -o build/native/$*.tsan $(filter %.c %.o,$^)
	build/native/$*.tsan
	@touch $@

# The real xenstored, from Debian's packages, as what the tests compare with; see tests/oracle.
oracle: build/oracle/ready

build/oracle/ready: tests/oracle/fetch.sh tests/oracle/shim.c
	tests/oracle/fetch.sh build/oracle

# Block devices that others serve from a process of their own, as what the benchmarks compare with; see benchmarks/peers.
peers: build/peers/ready

build/peers/ready: benchmarks/peers/fetch.sh
	benchmarks/peers/fetch.sh build/peers

# Real Xen under QEMU, for what needs a real hypervisor; docs/xen-lab.md says what it is and what its results mean.
xen-lab: build/xen-lab/ready

build/xen-lab/fetched: lab/fetch.sh
	lab/fetch.sh build/xen-lab

build/xen-lab/ready: build/xen-lab/fetched $(VENV)/ready $(wildcard lab/*.py lab/dom0/* lab/guest/*)
	$(BIN)/python -m lab.images build/xen-lab
	@touch $@

# One boot serves all tests of a process. An emulated machine takes one CPU, so there are as many as are worth it.
MACHINES ?= 2
LAB_TEST := $(BIN)/python -m pytest -v -n $(MACHINES) --durations=0
xen-test: xen-lab
	$(LAB_TEST) --dist loadfile --no-loadscope-reorder -o faulthandler_timeout=1800 lab/tests

# Every conformance case on real Xen, against our backend, Linux's and QEMU's, and against Linux's frontend.
xen-conform: xen-lab
	CONFORM_CASES='B-* F-*' $(LAB_TEST) -o faulthandler_timeout=3600 lab/tests/test_conformance*.py

# Blocks a second: the limit, every mode, one backend thread and two; benchmarks/README.md says what the figures mean.
bench: $(VENV)/ready
	$(BIN)/python benchmarks/engine/compare.py
	$(BIN)/python benchmarks/engine/threads.py

# The same beside other people's servers.
bench-peers: $(VENV)/ready peers
	$(BIN)/python benchmarks/engine/compare.py --peers

# Our xenstored beside the real one; benchmarks/README.md says what the figures mean.
bench-xenstore: $(VENV)/ready oracle
	$(BIN)/python benchmarks/xenstore/compare.py
	$(BIN)/python benchmarks/xenstore/scale.py

# Our xenstored against the real one, each answer and each event of made-up scripts: STEPS of them, from seed SEED on.
STEPS ?= 1000000
SEED  ?= 1
differential: $(VENV)/ready oracle
	$(BIN)/python tests/oracle/run.py --steps $(STEPS) --seed $(SEED)

# Two processes on a ring of one entry that sleep for each other: REQUESTS of them, or a description of the hang.
REQUESTS ?= 10000000
soak: build/soak
	build/soak $(REQUESTS) $(SEED)

build/soak: tests/model/soak.c ring/sring.c xenblk/emulated/evtchn.c $(C_HEADERS)
	@mkdir -p build
	$(CC) $(CWARN) -O2 -o $@ tests/model/soak.c ring/sring.c xenblk/emulated/evtchn.c

# A file's tests stay in one process, with what they share; a process more than CPUs, as most of them wait.
pytest: $(VENV)/ready
	$(BIN)/pytest -n $$(($$(nproc) + 1)) --dist loadfile

dist: $(VENV)/ready
	rm -rf dist && $(BIN)/python -m build --outdir dist .

# What users run, from the installed wheel: the checkout's package is out of reach. Whether all is in it, and starts,
# not once more what it does.
WHEEL_TESTS := $(addprefix tests/integration/,test_library.py test_readme.py test_counts.py::test_copy_maps_nothing)
wheel-test: dist
	rm -rf build/wheel && mkdir -p build/wheel
	$(PYTHON) -m venv --without-pip build/wheel/venv
	$(BIN)/pip --python build/wheel/venv/bin/python install --quiet --disable-pip-version-check \
		"$$(ls dist/*.whl)[pytest]" pytest-xdist hypothesis
	cp -r tests README.md pyproject.toml build/wheel/
	cd build/wheel && venv/bin/pytest -n 2 --dist loadfile -m "not checkout" $(WHEEL_TESTS)

$(VENV)/ready: pyproject.toml xenblk/_native_build.py $(C_SOURCES) $(C_HEADERS)
	@command -v $(PYTHON) >/dev/null || { echo "xenblk needs Python 3.11 or newer: $(PYTHON) was not found" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "xenblk needs Python 3.11 or newer: $$($(PYTHON) --version) was found" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "xenblk needs Python's venv module: on Debian, apt-get install python3-venv" >&2; exit 1; }
	@command -v $(CC) >/dev/null || { echo "xenblk needs a C compiler: on Debian, apt-get install gcc python3-dev" >&2; exit 1; }
	@$(PYTHON) -c 'import os, sysconfig, sys; sys.exit(not os.path.exists(sysconfig.get_paths()["include"] + "/Python.h"))' || { echo "xenblk needs Python's C headers: on Debian, apt-get install python3-dev" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info xenblk/*.so

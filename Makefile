# What a person does with a checkout. `make` lists it; every target sets up first what it needs.

SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
STAMP := $(VENV)/.jitunwind-set-up
VERSIONS := $(patsubst src/jitunwind/jits/cpython/versions/py3%.py,3.%,$(sort $(wildcard src/jitunwind/jits/cpython/versions/py3*.py)))
# Benchmarks with targets of their own, and what they run.
LONG := $(patsubst %,bench/%.py,stops witness libraries audit builds testsuite publishing held readers record recording unwinders upstream forms readme profilers perfstacks listing)
# One process more than there are processors: tests wait for processes that they have started.
PYTEST = $(VENV)/bin/python -m pytest -n $(shell expr $$(nproc) + 1) --dist loadfile --no-loadscope-reorder --costs -r fEs
# GDB from PyPI lies in .venv, and is the second choice.
export PATH := $(PATH):$(CURDIR)/$(VENV)/bin

.PHONY: help setup interpreters guests builds debuggers test offline thorough stress lint format demo readme bench witness libraries readers unwinders audit otherbuilds suite upstream forms speed publishing recording profilers profiling picture screens clean

help: ## list the targets
	@echo "make TARGET, where TARGET is one of:"
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  \1\t\2/' | expand -t 16

setup: $(STAMP) ## make .venv, with jitunwind (editable) and what its tests need

# An install, editable or not, builds the shared objects of the agent's C sources.
$(STAMP): pyproject.toml setup.py tools/setup.sh $(wildcard src/*.pth src/jitunwind/agent/*.[ch] src/jitunwind/arch/x86_64/*.c src/jitunwind/recover/*.c src/jitunwind/audit/readers/*.c)
	@tools/setup.sh
	@touch $@

interpreters: $(STAMP) ## get the CPythons that are known, with JIT and debug symbols (fetched if need be)
	@for version in $(VERSIONS); do \
		$(VENV)/bin/python tools/interpreters.py $$version --debug-symbols && continue; \
		echo "interpreters: then one without debug symbols"; \
		$(VENV)/bin/python tools/interpreters.py $$version || exit; \
	done

guests: $(STAMP) ## the same for AArch64, which qemu-aarch64 runs
	@for version in $(VERSIONS); do \
		$(VENV)/bin/python tools/interpreters.py $$version --arch arm64 --debug-symbols || exit; \
	done

builds: $(STAMP) ## get other builds of the same CPythons: with assertions; embedded; other patch releases
	@for version in $(VERSIONS); do \
		for kind in --pydebug "--embedded shared" "--embedded static" "--embedded stripped" "--suite testing"; do \
			$(VENV)/bin/python tools/interpreters.py $$version $$kind || exit; \
		done; \
	done

debuggers: $(STAMP) ## get other debuggers and unwinders that tests compare: GDB 18, LLDB 19, those of Debian sid (fetched if need be)
	@$(VENV)/bin/python tools/debuggers.py

test: interpreters guests builds debuggers ## run all tests; PYTEST_ARGS="-k name" runs those of that name
	@$(PYTEST) $(PYTEST_ARGS)

offline: $(STAMP) ## run the tests that need no interpreter with a JIT
	@$(PYTEST) -m "not live" $(PYTEST_ARGS)

thorough: interpreters guests builds debuggers ## run the same tests with more steps, interrupts, samples and publishes
	@JITUNWIND_THOROUGH=1 $(PYTEST) $(PYTEST_ARGS)

stress: $(STAMP) ## the agent: 100,000 publishes from 8 threads, with forks, under each sanitizer
	@JITUNWIND_THOROUGH=1 $(VENV)/bin/python -m pytest tests/agent

lint: $(STAMP) ## ruff check, ruff format --check, mypy --strict, and which room imports which
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

format: $(STAMP) ## format the sources
	@$(VENV)/bin/ruff format .
	@$(VENV)/bin/ruff check --fix .

demo: interpreters ## what plain GDB, py-spy, pystack and jitunwind say of one stop, on each CPython
	@$(VENV)/bin/python tools/demo.py

readme: interpreters ## README.md's excerpts of such a run, made anew
	@$(VENV)/bin/python bench/readme.py

bench: interpreters ## the comparisons with other tools, as ratios
	@for script in $(filter-out $(LONG),$(shell grep -l __main__ bench/*.py)); do \
		echo "== $$script"; $(VENV)/bin/python $$script || exit; \
	done

witness: interpreters guests ## docs/witness.md: recovered tables against what compilers wrote; FILES="…" for others
	@files="$(FILES)"; \
	if [ -z "$$files" ]; then \
		python=$$($(VENV)/bin/python tools/interpreters.py 3.15 --debug-symbols | tail -n 1); \
		guest=$$($(VENV)/bin/python tools/interpreters.py 3.15 --arch arm64 --debug-symbols | tail -n 1); \
		arm=$$(dirname $$guest)/../lib/aarch64-linux-gnu; \
		files="$$python $$(dirname $$python)/../lib/x86_64-linux-gnu/libc.so.6 $$(command -v gdb) \
			$$(ls /usr/lib/x86_64-linux-gnu/libclang-cpp.so.* 2>/dev/null | head -n 1) \
			$$guest $$arm/libc.so.6 $$arm/libm.so.6 $$(ls $$arm/libsqlite3.so.? $$arm/libssl.so.?)"; fi; \
	$(VENV)/bin/python bench/witness.py $$files --into docs/witness.md --floor 0.999

libraries: $(STAMP) ## docs/check.md: jitunwind check over the shared libraries of this machine
	@$(VENV)/bin/python bench/libraries.py --into docs/check.md

readers: debuggers ## docs/readers.md: what libgcc, libunwind, GDB, perf and others make of call frame information
	@$(VENV)/bin/python bench/readers.py --into docs/readers.md

build/pyperformance: | $(STAMP)
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check --no-deps --target $@ pyperf pyperformance

forms: interpreters build/pyperformance ## the forms of instructions that JIT code has, known by heart: known_forms.py
	@$(VENV)/bin/python bench/forms.py build/pyperformance

audit: interpreters build/pyperformance ## docs/audit.md: millions of instructions of JIT code judged, x86_64's and AArch64's
	@$(VENV)/bin/python bench/audit.py build/pyperformance --into docs/audit.md

otherbuilds: builds ## docs/builds.md: debug builds, other patch releases and embedded ones: stacks, audits, times
	@$(VENV)/bin/python bench/record.py docs/builds.md builds bench/builds.py

suite: $(STAMP) ## CPython's own tests with publishing off and on; VERSIONS=3.14 for one version
	@$(VENV)/bin/python bench/testsuite.py --versions $(VERSIONS)

upstream: $(STAMP) ## docs/upstream.md: CPython's own tests of unwinding, plain, with the plugin and published
	@$(VENV)/bin/python bench/upstream.py --into docs/upstream.md

speed: interpreters guests ## docs/speed.md: the benchmarks' ratios, but for publishing's
	@for name in recovery bt stops depths listing stepping registering startup; do \
		$(VENV)/bin/python bench/record.py docs/speed.md $$name bench/$$name.py || exit; done

publishing: interpreters build/pyperformance ## docs/speed.md: what publishing costs, over ten programs; takes an hour
	@for version in $(VERSIONS); do \
		$(VENV)/bin/python bench/record.py docs/speed.md "work $$version" bench/publishing.py build/pyperformance \
			--measures work --versions $$version || exit; done
	@$(VENV)/bin/python bench/record.py docs/speed.md bytes bench/publishing.py build/pyperformance \
		--measures bytes --versions $(VERSIONS)

recording: interpreters build/pyperformance ## docs/speed.md: what recording costs ten programs, beside py-spy; takes twenty minutes
	@for version in $(VERSIONS); do \
		$(VENV)/bin/python bench/record.py docs/speed.md "recording $$version" bench/recording.py build/pyperformance \
			--versions $$version || exit; done

profiling: interpreters build/pyperformance ## docs/speed.md: the same of publishing with a file for perf
	@for version in $(VERSIONS); do for kind in jitdump map; do \
		$(VENV)/bin/python bench/record.py docs/speed.md "$$kind $$version" bench/publishing.py build/pyperformance \
			--measures work --versions $$version --perf $$kind || exit; done; done

build/profilers: | $(STAMP)
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check --target $@ py-spy pystack austin-dist
	@for version in $(VERSIONS); do \
		$(VENV)/bin/python -m pip install -q --disable-pip-version-check --only-binary :all: --python-version $$version \
			--target $@/memray-$$version memray || exit; done

profilers: interpreters debuggers build/profilers build/pyperformance ## docs/profiling.md: what profilers show with the JIT on, plain and published
	@$(VENV)/bin/python bench/profilers.py build/profilers --into docs/profiling.md
	@$(VENV)/bin/python bench/perfstacks.py build/pyperformance --into docs/profiling.md

unwinders: interpreters debuggers ## docs/unwinders.md: what unwinders inside the process find, with publishing and without
	@$(VENV)/bin/python bench/unwinders.py --into docs/unwinders.md

picture: interpreters ## docs/*.png: the pages of explain and record, in a browser
	@$(VENV)/bin/python tools/picture.py

screens: interpreters ## docs/screens.md: bt, audit, check and explain on terminals of three widths, dark and light
	@$(VENV)/bin/python tools/screens.py

clean: ## remove .venv and what builds and tests leave (fetched interpreters stay)
	rm -rf $(VENV) build dist src/*.egg-info src/jitunwind/agent/*.so src/jitunwind/arch/x86_64/*.so src/jitunwind/audit/readers/unwinders .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

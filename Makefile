# The two commands a fresh machine needs: `make run` and `make test`. Everything lives in .venv.
#
# Another Python: `make test PYTHON=python3.12 VENV=.venv-3.12`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUNS := $(VENV)/.runs
# Compiled code is kept; otherwise each process would compile pytest's plugins and the tests again
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test announced lint types core covered suite soak bench clean

run: $(RUNS)
	@printf '%s\n' 'Your mail will be printed here, and shown in a browser at the address below.' \
		'To send a first mail, type in another terminal:' \
		"  printf 'To: you@example.com\\nSubject: Hello\\n\\nIt works.\\n' | $(BIN)/ehlo sendmail -t"
	@$(BIN)/ehlo

# Of forms that run the same code, some are left to CI: see tests/support/examples.py
test: announced $(STAMP)
	@EHLO_QUICK=1 $(MAKE) $(PARALLEL) lint $(PARTS:tests/protocol=core-branches core-products types)
	@$(CORE_REPORT) --data-file=.coverage.core

announced:
	@echo 'Linters, type checker and all tests: about 5 minutes on 2 idle cores.'

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tools/prose.py

types: $(STAMP)
	$(BIN)/mypy

# Whether pyright knows the type of each public name, as it wants it of a typed package. It installs
# node, 240 MB, so this is no part of `make test`
.PHONY: completeness
completeness: $(STAMP)
	$(BIN)/python -m pip install --quiet 'pyright[nodejs]>=1.1.400'
	PYTHONPATH=src $(BIN)/pyright --pythonpath $(BIN)/python --verifytypes ehlo --ignoreexternal

# The tests run in parts, the longest ones first. Each has a process of its own, which imports its
# own tests only. JOBS: how many run at a time; many tests wait, so four more than processors
JOBS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 4)
# Files that would make the part of their directory too long: each is a part of its own
APART := tests/cli/test_workers.py tests/robustness/test_work.py
PARTS := $(addprefix tests/,cli browser interop server) others $(APART) \
	$(addprefix tests/,inbox testing robustness queue protocol)
OWN_PARTS := $(filter tests/%,$(PARTS))
PARALLEL = --no-print-directory --keep-going --jobs=$(JOBS) \
	$(if $(filter output-sync,$(.FEATURES)),--output-sync)
PYTEST = $(if $(COVERED),$(BIN)/coverage run --data-file=.coverage.$(notdir $@)) $(BIN)/pytest -q
# A plugin that tests/testing alone uses, and that takes half a second to import
WITHOUT := -p no:anyio
.PHONY: $(PARTS) core-branches core-products

$(OWN_PARTS): $(STAMP)
	$(PYTEST) $(if $(filter tests/testing,$@),,$(WITHOUT)) $(patsubst %,--ignore=%,$(filter-out $@,$(APART))) $@

# All tests that have no part of their own, so that none is left out
others: $(STAMP)
	$(PYTEST) $(WITHOUT) $(OWN_PARTS:%=--ignore=%) tests

# The core's tests alone, without coverage: what to run after each change of src/ehlo/protocol
core: $(STAMP)
	$(PYTEST) --numprocesses=$(JOBS) --dist=loadfile tests/protocol

# The tests of the core that show each of its branches; coverage slows them. And the other ones
core-branches: $(STAMP)
	$(BIN)/coverage run --data-file=.coverage.core \
		$(BIN)/pytest -q $(WITHOUT) -m 'not no_cover' tests/protocol

core-products: $(STAMP)
	$(PYTEST) $(WITHOUT) -m no_cover tests/protocol

CORE_REPORT = $(BIN)/coverage report --include='src/ehlo/protocol/*' --fail-under=100

# All tests, with coverage of all code: for CI
covered: $(STAMP)
	rm -f .coverage .coverage.*
	@$(MAKE) $(PARALLEL) COVERED=1 $(PARTS)
	$(CORE_REPORT) --data-file=.coverage.protocol
	$(BIN)/coverage combine --quiet --keep
	$(BIN)/coverage report --fail-under=85

# All tests, without coverage: for another Python than the one that `make test` uses
suite: $(STAMP)
	@$(MAKE) $(PARALLEL) $(PARTS)

# The tests that have a long form, in full. For the mixed load: EHLO_SOAK_MINUTES=30, EHLO_SOAK_SEED
LONG := $(addprefix tests/,protocol robustness queue testing/test_recorded.py inbox/test_killed.py \
	inbox/test_openapi.py)
soak: $(STAMP)
	EHLO_SOAK=1 EHLO_REQUIRE_PEERS=1 $(BIN)/pytest -v $(LONG)

# The site, in docs/_build/html; a warning is an error
.PHONY: docs
docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs docs/_build/html

bench: $(STAMP)
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/storage.py
	$(BIN)/python benchmarks/engines.py

clean:
	rm -rf .venv .venv-* .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis \
		docs/_build

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# What running needs, and no more: click, idna, and what shows mail in a browser
$(RUNS): pyproject.toml | $(BIN)/python
	@echo 'Installing ehlo in $(VENV), with what running it needs: about 15 seconds.'
	@$(BIN)/python -m pip install --quiet --editable '.[inbox]'
	@touch $@

$(STAMP): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[standard,dev]'
	touch $@

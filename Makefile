# make run: set everything up and search real input.  make test: set everything up and test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STDLIB = $(shell $(BIN)/python -c "import sysconfig; print(sysconfig.get_paths()['stdlib'])")

.PHONY: run test test-all lint bench reproduce clean

$(VENV)/.core: pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'inlay needs Python 3.11 or newer')"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.dev: $(VENV)/.core constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

run: $(VENV)/.core
	@echo "Indexing the standard library of $$($(BIN)/python --version) ..."
	@$(BIN)/inlay index "$(STDLIB)" --exclude test --exclude tests --exclude idlelib --exclude lib2to3
	@for q in "parse a date out of text" "run a command and capture its output" "least recently used cache"; do \
	  printf '\n── %s\n\n' "$$q"; $(BIN)/inlay search "$$q" "$(STDLIB)" -k 3 --no-sync || exit 1; done
	@printf '\nThis was the standard library of your Python. Now a folder of your own:\n\n    $(BIN)/inlay search "what you are looking for" PATH\n\nand from Python: import inlay; c = inlay.open("notes.inlay")   (docs/getting-started.md)\n'

# A file of tests stays in one process, so that what its fixtures train is trained once.
test: $(VENV)/.dev
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-all: $(VENV)/.dev
	$(BIN)/python -m pytest -m "slow or not slow" --timeout 1800

lint: $(VENV)/.dev
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks

reproduce: $(VENV)/.dev
	$(BIN)/inlay reproduce --all

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache

# make book | test | check-book | lint | benchmark | pdf | clean      (make help says more)

PYTHON ?= python3
VENV   ?= .venv
CORES  ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)
CONFIG ?= config.yaml
MODELS ?=
export MODELS CONFIG

BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
RIVALS := .venv-rivals

.PHONY: help book notebooks keep test check-book lint benchmark benchmark-rivals pdf clean browser environment

help:
	@echo "make book        environment, models, notebooks, pages: open _build/html/index.html"
	@echo "                 MODELS='gpt2 path/to/folder' adds models (a path with blanks in"
	@echo "                 quotes: MODELS=\"gpt2 'my models/one'\"); CORES=8, CONFIG=my.yaml"
	@echo "                 CONFIG=config.full.yaml makes the long matrix: hours"
	@echo "make keep        makes pages of the long matrix small and puts them into book/kept"
	@echo "make test        style, types and tests (CORES=8 runs so many tests at once)"
	@echo "make check-book  links, figures and numbers of the pages that make book made"
	@echo "make benchmark   measures the package against the direct ways (book/benchmarks)"
	@echo "make benchmark-rivals  installs other programs, which make benchmark then measures too"
	@echo "make pdf         the book as one PDF, where Chromium is installed"
	@echo "make clean       removes what the runs wrote, and the pages (not the environments, nor the cache)"

book: $(STAMP)
	@$(BIN)/python book/build.py --cores $(CORES) --configfile "$$CONFIG" --models="$$MODELS"

notebooks: $(STAMP)
	@$(BIN)/python book/build.py --cores $(CORES) --configfile "$$CONFIG" --models="$$MODELS" --no-site

keep: $(STAMP)
	@$(BIN)/python book/keep.py

test: lint browser
	$(BIN)/python -m pytest -m "not book" \
	  --numprocesses=$(CORES) --maxprocesses=8 --dist=worksteal --durations=15

check-book: $(STAMP) browser
	$(BIN)/python -m pytest -m book

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmark: $(STAMP)
	$(BIN)/python book/benchmark.py

# TransformerLens and the lm-evaluation-harness, in an environment of their own: nothing else here
# needs them, and without them their benchmarks are skipped.
benchmark-rivals: $(RIVALS)/.installed

$(RIVALS)/.installed: tests/benchmarks/rivals.txt constraints.txt
	test -x $(RIVALS)/bin/python || $(PYTHON) -m venv $(RIVALS)
	$(RIVALS)/bin/python -m pip install --quiet --disable-pip-version-check \
	  -c constraints.txt -r tests/benchmarks/rivals.txt
	@touch $@

pdf: $(STAMP)
	$(BIN)/python book/pdf.py

environment: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name it: make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  -c constraints.txt -e '.[book,chemistry,mauve,test]'
	@touch $@

# The browser checks are skipped where there is none, and so are those of models that hear where
# nothing can speak; as root on Debian both can be had.
browser:
	@command -v chromedriver >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	  { apt-get update -qq && apt-get install -qq -y chromium chromium-driver >/dev/null; } ; } || \
	  echo "No chromium and chromedriver: the checks in a browser will be skipped."
	@command -v espeak-ng >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	  { apt-get update -qq && apt-get install -qq -y espeak-ng >/dev/null; } ; } || \
	  echo "No espeak-ng: the checks of models that hear will be skipped."

clean:
	rm -rf _build .snakemake .mypy_cache .ruff_cache .benchmarks
	@! test -x $(BIN)/python || $(BIN)/python book/clean.py

# What `make` saves you is three or four commands; without it, run them by hand (on Windows .venv\Scripts\python).
PYTHON ?= python3
# The versions the tests run with, for Python 3.11 and 3.12. Elsewhere take the newest: make demo CONSTRAINTS=
CONSTRAINTS ?= -c constraints.txt
# The hippocampus data set for `make demo`; empty means phantoms.
DATA ?=
# Which changes `make mutants` tries again: ONLY="rep3d.data.splits*"; empty means those that it has not tried yet.
ONLY ?=
# A folder of scans for `make label-demo`; empty means a real one and phantoms.
STUDIES ?=

INSTALL = .venv/bin/python -m pip install $(CONSTRAINTS)
# Strict, see mkdocs.yml. The variable keeps the theme from advertising its successor.
BOOK = NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet

.PHONY: help demo label-demo test quick mutants docs check render clean

help:
	@echo 'make demo    train and segment on this computer; real scans: make demo DATA=downloads/Task04_Hippocampus'
	@echo 'make label-demo  serve the hippocampus bundle to 3D Slicer; your own scans: make label-demo STUDIES="my folder"'
	@echo 'make test    run the tests'
	@echo 'make quick   run those that take no more than a few seconds each'
	@echo 'make mutants  does a test fail for every small change to the core? takes hours, and goes on where it stopped'
	@echo 'make check   formatter, linter, type checker, layers, docs, and that bundles/ is what configs/ renders to'
	@echo 'make docs    write the documentation as one book to site/'
	@echo 'make render  write bundles/ from configs/'
	@echo 'make clean   remove .venv and runs'

demo: .venv/.core
	.venv/bin/python scripts/demo.py --data "$(DATA)"

label-demo: .venv/.all
	.venv/bin/python scripts/label_demo.py --studies "$(STUDIES)"

# Two at a time; the tests of a file share their servers and networks.
test: .venv/.all
	.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

quick: .venv/.all
	.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

# In mutants/, a copy: `rm -r mutants` begins anew.
mutants: .venv/.all
	.venv/bin/mutmut run $(ONLY)
	.venv/bin/python scripts/mutants.py

docs: .venv/.dev
	$(BOOK)
	@echo 'the book: site/index.html'

check: .venv/.dev
	.venv/bin/ruff format --check
	.venv/bin/ruff check
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/python scripts/render_bundles.py --check
	$(BOOK)

render: .venv/.core
	.venv/bin/python scripts/render_bundles.py

clean:
	rm -rf .venv runs mutants site

.venv/bin/python:
	$(PYTHON) -m venv .venv

# Each empty stamp file says what .venv holds, so that only the first call installs.
.venv/.core .venv/.dev .venv/.all: pyproject.toml constraints.txt | .venv/bin/python

.venv/.core:
	$(INSTALL) -e .
	touch $@

.venv/.dev:
	$(INSTALL) -e ".[dev,docs]"
	touch $@

# monailabel needs sam2, which is built from source and asks for torch: isolated, its build would download another one.
.venv/.all:
	$(INSTALL) torch setuptools
	$(INSTALL) --no-build-isolation -e ".[label,export,refine,baselines,test,dev,docs]"
	touch $@

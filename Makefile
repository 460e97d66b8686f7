# make demo   the main job on the bundled model: out/report.html and out/eigenvectors.zarr
# make test   every extra into the same .venv, then all tests
# make docs   the documentation site: out/docs/index.html
# make lint types bench screenshots clean
#
# All paths are relative, so the folder may carry any name, spaces included. Nothing is installed twice unless
# pyproject.toml or constraints.txt changed. To choose things: make demo PYTHON=python3.12 PIP_FLAGS="--no-index ..."

PYTHON ?=
PIP_FLAGS ?=
PYTEST_FLAGS ?=
BIN = .venv/bin
# Not compiled at once, which takes minutes: of 20,000 modules, Python compiles those that are imported, as they are.
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --no-compile $(PIP_FLAGS) --constraint constraints.txt

.PHONY: demo test docs lint types bench screenshots clean
.DELETE_ON_ERROR:

demo: .venv/installed-core
	$(BIN)/spectral-toolkit demo --out out

# Workers of one thread each: quicker than threads that wait for each other, and repeatable.
# Each holds its own torch, so more than four only costs memory. They get whole files, in the order of conftest.py, so
# that what a file starts (a browser, a Jupyter) is started once.
test: .venv/installed-all .venv/timm/installed
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(PYTEST_FLAGS)

# timm and the torchvision that it imports live apart: beside a CPU build of torch, torchvision breaks what finds it.
.venv/timm/installed: .venv/installed-all
	$(INSTALL) --no-deps --target .venv/timm timm torchvision==0.29.1
	@touch $@

# Strict: a broken link, a name without a page and a docstring that does not parse are errors.
docs: .venv/installed-all
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --nitpicky --quiet docs out/docs
	@echo "Open out/docs/index.html"

lint: .venv/installed-all
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python docs/lint_prose.py

types: .venv/installed-all
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

bench: .venv/installed-all
	$(BIN)/python -m benchmarks

screenshots: .venv/installed-all demo
	$(BIN)/python docs/make_screenshots.py

clean:
	rm -rf .venv out build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Answers only with a Python that is new enough and can make virtual environments; a shim that leads nowhere is passed over.
.venv/bin/python:
	@for candidate in $(if $(PYTHON),"$(PYTHON)",python3.11 python3); do \
	    if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	        echo "Creating .venv with $$("$$candidate" --version) ($$candidate)."; \
	        exec "$$candidate" -m venv --clear .venv; \
	    fi; \
	done; \
	echo "No Python 3.11 or newer with venv and pip was found: install Python 3.11 (on Debian and Ubuntu also" \
	     "python3-venv), or name one: make demo PYTHON=/path/to/python3.11" >&2; exit 1

.venv/installed-core: .venv/bin/python pyproject.toml constraints.txt
	@echo "Installing spectral_toolkit and what it needs into .venv (a few minutes; only now and when pyproject.toml changes)."
	$(INSTALL) --editable .
	@touch $@

.venv/installed-all: .venv/bin/python pyproject.toml constraints.txt
	@echo "Installing every extra into .venv (a few minutes; only now and when pyproject.toml changes)."
	$(INSTALL) --editable '.[app,diffusers,docs,faiss,figures,labs,notebooks,test]'
	@touch .venv/installed-core $@

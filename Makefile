# Everything runs in .venv, which the first target makes. `make help` lists the targets.
#
#   PYTHON  the interpreter that .venv is made from
#   TORCH   what pip is asked for. One exact version, so that every run is of the same PyTorch, and so
#           that pip takes the wheel at hand (a CPU build, say) where a looser request would fetch
#           gigabytes of CUDA libraries. Any PyTorch from 2.10 on works:
#               make distclean && make demo TORCH=torch
#   TRITON  the same for the GPU kernels, which the tests interpret and compile: the version that GPU builds of
#           this PyTorch require. Any from 3.6 on works; a PyTorch of another version brings its own.
PYTHON ?= python3
TORCH ?= torch==2.13.0
TRITON ?= $(if $(filter torch==2.13.0,$(TORCH)),$(if $(filter Linux-x86_64,$(shell uname -sm | tr ' ' -)),triton==3.7.1))

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# The package is installed editable: Python sources need no reinstall, these do. Folders are listed
# too: their time stamps say that a file came or went.
SOURCES := setup.py pyproject.toml alias_ops/_version.py $(shell find csrc)
# Installed with or without the extension is not the same: see setup.py for the variable.
export ALIAS_OPS_BUILD_CPU ?= auto
STAMP := $(VENV)/installed-$(ALIAS_OPS_BUILD_CPU)

CPP := $(filter %.cpp %.h %.cu %.cuh,$(SOURCES)) benchmarks/ceilings.cpp $(wildcard tests/cuda_emulator/*)

# Peers that are measured where they install: only their layers are imported, so nothing that they depend on.
PEERS := kornia kornia-rs timm antialiased-cnns
RESULTS := benchmarks/results/$(shell date +%Y-%m-%d)-cpu.json
BENCH :=

.PHONY: help demo vision test coverage mutants sanitize bench experiments docs docs-figures docs-experiments check format build wheels clean distclean
.DEFAULT_GOAL := help

help:
	@echo "make demo       install into .venv, run examples/demo, write demo_output/"
	@echo "make test       install into .venv, run the tests"
	@echo "make coverage   the tests, and which lines and branches of alias_ops they reach (a third longer than make test)"
	@echo "make mutants    small changes of designs and functional.py, each of which has to fail a test"
	@echo "make sanitize   the tests that reach C++, under AddressSanitizer and UndefinedBehaviorSanitizer (half an hour)"
	@echo "make bench      install into .venv, time everything (a quarter of an hour), write benchmarks/results and figures"
	@echo "make experiments  the papers' claims tried on the bundled photographs, in experiments_output (forty minutes of two cores)"
	@echo "make docs       install into .venv, write the documentation to docs/_build/html; a warning is an error"
	@echo "make docs-figures  draw the figures of docs/concepts.md and docs/spectra.md anew"
	@echo "make docs-experiments  bring the tables and figures of experiments_output into docs"
	@echo "make check      ruff, mypy and clang-format"
	@echo "make format     let ruff and clang-format rewrite the sources"
	@echo "make build      sdist and wheel in dist/"
	@echo "make wheels     the same for a release: built twice and compared, tried beside the PyTorch versions in TRY, hashed"
	@echo "make clean      remove what was built; distclean removes .venv too"

demo: $(STAMP)-demo
	$(BIN)/python examples/demo --output demo_output

# Networks that replace_downsampling is tried on, and attacks. Nothing that they depend on, least of all another PyTorch;
# where they do not install, these tests are skipped.
VISION := timm torchattacks $(if $(filter torch==2.13.0,$(TORCH)),torchvision==0.28.0,torchvision)

vision: $(STAMP)-test
	-@test -d $(VENV)/vision || $(PIP) install --quiet --no-deps --target $(VENV)/vision $(VISION)

test: vision
	$(BIN)/python -m pytest

coverage: vision
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

# MUTANTS adds options: make mutants MUTANTS="--again", or a module
MUTANTS :=

mutants: $(STAMP)-test
	$(PIP) install --quiet cosmic-ray==8.7.0
	$(BIN)/python tests/mutants.py $(MUTANTS)

sanitize: $(STAMP)-test
	.ci/sanitize $(BIN)/python

# BENCH adds options: make bench BENCH="--upstream FOLDER"
bench: $(STAMP)-bench
	-$(PIP) install --quiet --no-deps $(PEERS)
	$(BIN)/alias-ops bench --json $(RESULTS) --figures docs/img $(BENCH)

# EXPERIMENTS adds options: make experiments EXPERIMENTS="overfitting early_stopping", "--upstream FOLDER", "--scale gpu"
EXPERIMENTS :=

experiments: $(STAMP)-experiments
	-$(PIP) install --quiet --no-deps $(PEERS)
	$(BIN)/python examples/experiments $(EXPERIMENTS)

docs-experiments: $(STAMP)-experiments
	$(BIN)/python examples/experiments/document.py experiments_output docs

docs: $(STAMP)-docs
	$(BIN)/python -m sphinx -W --keep-going -q docs docs/_build/html
	@echo docs/_build/html/index.html

docs-figures: $(STAMP)-attacks,demo
	$(BIN)/python docs/figures.py
	$(BIN)/python examples/demo/spectra_figures.py docs/img

check: $(STAMP)-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CPP)

format: $(STAMP)-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(CPP)

build: $(STAMP)-dev
	$(BIN)/python -m build --no-isolation

# TRY: other versions of PyTorch, for instance TRY="torch==2.10.0 torch==2.13.0"
export TRY ?= $(TORCH)
wheels: $(STAMP)-release
	.ci/wheels $(BIN)/python dist

# PyTorch first and by itself: pip then never chooses one.
$(VENV)/torch:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install $(TORCH) $(TRITON)
	$(PIP) install "setuptools>=64" wheel
	@touch $@

# The import says so if the extension could not be built; pip hides what setup.py prints.
$(STAMP)-%: $(VENV)/torch $(SOURCES)
	$(PIP) install --no-build-isolation --editable ".[$*]"
	@$(BIN)/python -c "import alias_ops"
	@rm -f $(filter-out $(STAMP)-%,$(wildcard $(VENV)/installed-*))
	@touch $@

clean:
	rm -rf build dist demo_output docs/_build experiments_output fgsm_output alias_ops.egg-info alias_ops/_C*.so $(VENV)/installed-*
	rm -rf .benchmarks .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find alias_ops tests benchmarks examples -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean
	rm -rf $(VENV)

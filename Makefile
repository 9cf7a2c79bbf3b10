# Every command of this project: `make help`.
PYTHON ?= python3
VENV ?= .venv
SEEDS ?=
QUICK ?=
ARGS ?=

# The environment's Python is compared with PYTHON only where somebody asked for one.
asked := $(filter environment command,$(firstword $(origin PYTHON)))
python := $(VENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup demo methods test lint clean

help:  ## say what there is
	@echo 'make <target> [VARIABLE=value ...]'
	@echo
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | while IFS="$$(printf '\t')" read -r name says; do \
		printf '  %-7s %s\n' "$$name" "$$says"; done
	@echo
	@echo '  PYTHON=python3.11   the Python to make the environment with (3.10 to 3.12); default python3'
	@echo '  VENV=.venv          where the environment lies'
	@echo '  SEEDS=3  QUICK=1    make demo, make methods: number of seeds; make demo: a shortened run'
	@echo "  ARGS='-k graph'     passed on to pytest, ruff or the demo ('-n 0': the tests one after another)"
	@echo
	@echo "Where packages come from is pip's own matter: pip.conf, PIP_INDEX_URL and PIP_EXTRA_INDEX_URL hold as always."
	@echo 'On Linux a plain index serves torch with CUDA, several gigabytes; an index of CPU builds spares them.'

setup:  ## make the environment (once 10 to 20 minutes, mostly compiling; afterwards a second)
	@exec env PYTHON='$(PYTHON)' PYTHON_ASKED='$(asked)' VENV='$(VENV)' bash tools/setup.sh

demo: setup  ## distill a small detector and compare it with the one trained without a teacher
	$(python) tools/demo.py $(if $(SEEDS),--seeds $(SEEDS)) $(if $(filter-out 0,$(QUICK)),--quick) $(ARGS)

methods: setup  ## train a student with every method, briefly, and compare them
	$(python) tools/make_digits.py
	$(python) tools/compare.py configs/digits_cls/gkd.py --seeds $(or $(SEEDS),3) $(ARGS)
	$(python) tools/compare.py configs/digits/gkd.py --seeds $(or $(SEEDS),1) --epochs 3 $(ARGS)

test: setup  ## run the tests, on all cores
	$(python) -m pytest -n logical --maxprocesses 8 --dist loadfile $(ARGS)

lint: setup  ## check the code with ruff
	$(python) -m ruff check . $(ARGS)

clean:  ## remove build products and caches; the environment and the data stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
	find mmgkd tools tests configs -type d -name __pycache__ -prune -exec rm -rf {} +

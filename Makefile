# Every target sets up .venv first, once: from requirements.lock, with nothing but Python >= 3.11 on the machine.
# Works with GNU make 3.81, as macOS has it. Nothing outside this folder is written.
PROFILE ?= smoke
JOBS ?=
CASES ?= 5000
NOTEBOOK ?=
PYTHON ?=

VENV := $(CURDIR)/.venv
RUN := .venv/bin/python -m
REPRODUCE = $(RUN) tipslib.cli reproduce $(NOTEBOOK) --profile $(PROFILE) $(if $(JOBS),--jobs $(JOBS))
# tests in as many processes as there are cores, four at most: each grows to two or three gigabytes;
# one that crashes ends them all with the name of its test, since pytest-xdist may wait for its successor for ever
TOGETHER := -n auto --maxprocesses 4 --max-worker-restart 0
COMPILE := pip compile -q --no-header --no-annotate --no-emit-index-url --no-emit-find-links --all-extras
OLDEST := build/oldest

.PHONY: help setup book test test-lowest fuzz lab bench kill lock clean

help:
	@echo 'make book    executes the notebooks, builds the HTML book, prints the file to open'
	@echo 'make test    everything that is checked: style, types, tests, notebooks, book, book in a browser'
	@echo 'make test-lowest   the unit tests with the oldest versions that pyproject.toml allows, in an environment of their own'
	@echo 'make fuzz    damages every kind of file in CASES=5000 ways each, where make test tries a few hundred (for the night)'
	@echo 'make lab     opens the notebooks in JupyterLab; there the profile stands in the first cell of code'
	@echo 'make bench   speed against the obvious alternative'
	@echo 'make kill    kills batches and training runs at many instants, and fills disks: a quarter of an hour'
	@echo 'make lock    pins what pyproject.toml asks for in requirements.lock'
	@echo 'make clean   removes everything that was built, except .venv'
	@echo ''
	@echo 'Each of them sets up .venv first (make setup does only that). To narrow or widen:'
	@echo '  PROFILE=smoke, laptop, gpu or paper   book, test: how large the runs are (default: smoke)'
	@echo '  NOTEBOOK=stability                    book, test, lab: one notebook alone, without the book'
	@echo '  JOBS=2                                book, test: how many runs at once (default: one a core)'
	@echo '  PYTHON=/path/to/python3               which Python to set up with'

book test test-lowest fuzz bench kill: export XDG_CACHE_HOME := $(VENV)/cache
book test test-lowest fuzz bench kill: export MPLCONFIGDIR := $(VENV)/cache/matplotlib
book test test-lowest fuzz bench kill: export IPYTHONDIR := $(VENV)/cache/ipython

setup: .venv/.ready

.venv/.ready: requirements.lock pyproject.toml
	@PYTHON='$(PYTHON)' sh workflow/setup.sh

book: setup
	@$(REPRODUCE)

# what fails soonest comes first
test: setup
	$(RUN) ruff check .
	$(RUN) ruff format --check .
ifeq ($(NOTEBOOK),)
	$(RUN) pytest tests/book/test_chromium.py
endif
	$(RUN) mypy
ifeq ($(NOTEBOOK),)
	OMP_NUM_THREADS=1 $(RUN) pytest -m 'not browser' $(TOGETHER) --dist loadfile
	$(REPRODUCE)
	OMP_NUM_THREADS=1 TIPSLIB_BOOK=build/html/$(PROFILE) $(RUN) pytest -m browser $(TOGETHER)
else
	$(REPRODUCE)
	OMP_NUM_THREADS=1 $(RUN) pytest -m 'not browser' -k '$(NOTEBOOK)'
endif

test-lowest: setup
	$(RUN) uv $(COMPILE) --resolution lowest-direct --python .venv/bin/python pyproject.toml -o $(OLDEST).txt
	$(RUN) uv venv -q --clear --python .venv/bin/python $(OLDEST)
	$(RUN) uv pip install -q --python $(OLDEST)/bin/python -r $(OLDEST).txt
	$(RUN) uv pip install -q --python $(OLDEST)/bin/python --no-deps --no-build-isolation -e .
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -m 'not browser' $(TOGETHER) --dist loadfile

fuzz: setup
	OMP_NUM_THREADS=1 TIPSLIB_FUZZ_CASES=$(CASES) $(RUN) pytest tests/test_bad_bytes.py $(TOGETHER)

lab: setup
	@$(RUN) jupyterlab notebooks/$(if $(NOTEBOOK),$(NOTEBOOK).ipynb)

bench: setup
	@$(RUN) pytest benchmarks

kill: setup
	OMP_NUM_THREADS=1 TIPSLIB_KILLS=50 $(RUN) pytest tests/test_killed.py -k training -rP
	OMP_NUM_THREADS=1 TIPSLIB_KILLS=30 $(RUN) pytest tests/test_killed.py tests/test_faults.py -k book -rP

lock: setup
	@$(RUN) uv $(COMPILE) --universal --python-version 3.11 pyproject.toml -o requirements.lock

clean:
	rm -rf build .snakemake .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache

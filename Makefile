# make help lists the targets. The environment .venv is made by the first target that needs it and brought up to date
# when pyproject.toml, constraints.txt or locked.txt changes. With Python 3.11 on Linux x86-64 it has the wheels of
# locked.txt, checked by their hashes, and nothing else. Elsewhere pip chooses files of the releases in constraints.txt.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
FLOW := .venv-flow

NETWORK = lenet_300_100
RECIPE = standard
PROFILE = paper
REPLICATES =
TIME_LIMIT =
PLAN = agenda --profile laptop
FOLDER = runs/paper
WORKERS = 1
URL =
REPOSITORY =

# One data folder, whichever folder a notebook runs in.
export LTH_DATA ?= $(CURDIR)/data

# Tests and notebooks run two at a time. Threads of one that wait for each other take the cores from the other.
book test test-book notebooks: export OMP_NUM_THREADS = 1

EXTRAS = study,book,test,dev
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check
LOCKED = import platform, sys; \
    sys.exit((sys.version_info[:2], sys.platform, platform.machine()) != ((3, 11), "linux", "x86_64"))
HASHES = import json, sys; \
    line = "{0[name]}=={0[version]} --hash=sha256:{1[archive_info][hashes][sha256]}"; \
    found = [(each["metadata"], each["download_info"]) for each in json.load(sys.stdin)["install"]]; \
    print(*sorted((line.format(*each) for each in found if "archive_info" in each[1]), key=str.lower), sep="\n")

.DEFAULT_GOAL := help
.PHONY: help book test test-book test-cluster notebooks study paper archive dist lint mutants bench lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

book: $(INSTALLED)  ## execute the notebooks, build the book into _build/html (where published: URL= REPOSITORY=OWNER/NAME)
	$(BIN)/python book/build.py $(if $(URL),--url $(URL)) $(if $(REPOSITORY),--repository $(REPOSITORY))

test: $(INSTALLED)  ## run the tests, then every notebook against its stored outputs
	$(BIN)/python -m pytest -n 2 --dist loadfile --ignore=tests/built tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --nbval --nbval-current-env --nbval-cell-timeout=300 notebooks

test-book: $(INSTALLED)  ## test the built book: its pages, and a browser's view of them where Chromium is installed
	$(PIP) -c constraints.txt -e '.[browser]'
	$(BIN)/python -m pytest -n 2 --dist load tests/built

notebooks: $(INSTALLED)  ## execute the notebooks and store their outputs in them
	$(BIN)/python book/build.py --store

study: $(INSTALLED)  ## train what is missing (NETWORK= RECIPE= PROFILE= REPLICATES= TIME_LIMIT=seconds)
	$(BIN)/lth run $(NETWORK) --recipe $(RECIPE) --profile $(PROFILE) \
	    $(if $(REPLICATES),--replicates $(REPLICATES)) $(if $(TIME_LIMIT),--time-limit $(TIME_LIMIT))

paper: $(INSTALLED) $(FLOW)/.installed  ## train what an agenda lacks, the laptop's by default, and build the book (PLAN= FOLDER= WORKERS=networks of a unit)
	$(FLOW)/bin/snakemake --profile workflow/profiles/local --config 'plan=$(PLAN)' 'folder=$(FOLDER)' workers=$(WORKERS)

test-cluster: $(INSTALLED) $(FLOW)/.installed  ## run the workflow on a Slurm of its own, preempt it, kill a node (needs Slurm)
	$(BIN)/python workflow/try_cluster.py

archive: $(INSTALLED)  ## pack records and the numbers of all figures into dist/lth-core-data.zip (after make book)
	$(BIN)/python book/archive.py dist/lth-core-data.zip

dist: $(INSTALLED)  ## make wheel and sdist in dist/
	mkdir -p dist
	$(BIN)/python -c "from setuptools import build_meta as made; made.build_sdist('dist'); made.build_wheel('dist')"

lint: $(INSTALLED)  ## check style and types of the code and the notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

mutants: $(INSTALLED)  ## count the small faults in lth_core that its tests notice: at least 90% (hours)
	rm -rf mutants
	OMP_NUM_THREADS=1 $(BIN)/mutmut run --max-children 2
	@$(BIN)/mutmut results --all true | awk -F ': ' '$$2 == "killed" {killed++; next} {print} \
	    END {printf "%d of %d mutants killed\n", killed, NR; exit !(NR && killed >= 0.9 * NR)}'

bench: $(INSTALLED)  ## measure the speed of training on this machine
	$(BIN)/python benchmarks/bench.py

lock:  ## write locked.txt, the hashes of constraints.txt (with Python 3.11 on Linux x86-64)
	$(PYTHON) -m pip install --dry-run --ignore-installed --quiet --report - -c constraints.txt '.[$(EXTRAS)]' \
	    | $(PYTHON) -c '$(HASHES)' > locked.txt.part
	mv locked.txt.part locked.txt

clean:  ## remove what was built; keeps .venv, data/ and runs/
	rm -rf _build build dist .snakemake book/executed book/*.part book/pages book/_static/figures book/_static/explorer book/_static/diagrams .mypy_cache .pytest_cache .ruff_cache .hypothesis mutants
	find lth_core lth_study tests book benchmarks workflow -name __pycache__ -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt locked.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	if $(BIN)/python -c '$(LOCKED)'; then \
	    $(PIP) --require-hashes --only-binary :all: --no-deps -r locked.txt && $(PIP) --no-deps --no-build-isolation -e .; \
	else $(PIP) -c constraints.txt -e '.[$(EXTRAS)]'; fi
	touch $@

$(FLOW)/.installed: workflow/constraints.txt
	test -x $(FLOW)/bin/pip || $(PYTHON) -m venv $(FLOW)
	$(FLOW)/bin/python -m pip install --quiet --disable-pip-version-check -r workflow/constraints.txt
	touch $@

# Every target makes the environment on first use, and updates it when the dependencies change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PROJECTS := $(patsubst %/pyproject.toml,%,$(wildcard projects/*/pyproject.toml))
# uv does not read pip.conf. For an index of your own: make demo INSTALL='python -m pip install'
INSTALL ?= python -m uv pip install
export HF_HUB_OFFLINE := 1
# Python keeps the bytecode of what it imports, otherwise every process would compile torch again.
export PYTHONDONTWRITEBYTECODE :=
# glibc's heap in huge pages, which also keeps freed tensors: far fewer page faults. On virtual machines whose page
# faults are slow, the tests take less than half of the time.
HEAP := PYTHONMALLOC=malloc GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=8589934592
# One process has all tests of a file, whose fixtures are then made once.
PYTEST := python -m pytest -n 2 --dist loadfile
TESTS = $(HEAP) OMP_NUM_THREADS=1 $(CURDIR)/$(BIN)/$(PYTEST)

.PHONY: demo test test-slow test-web test-d2 docs bench fuzz soak lint format clean

$(READY): pyproject.toml setup.py requirements.txt $(PROJECTS:%=%/pyproject.toml)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/$(INSTALL) --quiet --editable '.[dev]' $(PROJECTS:%=--editable ./%)
	touch $@

demo: $(READY)
	$(BIN)/python projects/minicity/tools/experiment.py minicity

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff check --preview --select PLW1514 clouds tools projects/*/tools *.py
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(TESTS) -m 'not slow'
	set -e; for project in $(PROJECTS); do (cd $$project && $(TESTS) -m 'not slow'); done

# Tests that start processes, compile, or take long
test-slow: $(READY)
	$(TESTS) -m slow
	set -e; for project in $(PROJECTS); do (cd $$project && $(TESTS) -m slow); done

# The page of `clouds serve` in Chromium, which has to be installed
$(VENV)/.ready-web: $(READY)
	$(BIN)/$(INSTALL) --quiet --editable '.[dev,web-test]'
	touch $@

test-web: $(VENV)/.ready-web
	$(HEAP) OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/web/browser

# The suites with detectron2's own objects: make test-d2 D2=<folder of detectron2's source>
D2_VENV := .venv-d2
D2_BIN := $(D2_VENV)/bin
$(D2_VENV)/.ready: pyproject.toml setup.py requirements.txt $(PROJECTS:%=%/pyproject.toml)
	@test -f "$(D2)/setup.py" || { echo "make test-d2 needs D2=<folder of detectron2's source>"; exit 2; }
	$(PYTHON) -m venv $(D2_VENV)
	$(D2_BIN)/pip install --quiet --disable-pip-version-check uv
	$(D2_BIN)/$(INSTALL) --quiet --editable '.[dev]' $(PROJECTS:%=--editable ./%) 'setuptools<81' wheel
	$(D2_BIN)/$(INSTALL) --quiet --no-build-isolation "$(D2)"
	touch $@

test-d2: $(D2_VENV)/.ready
	OMP_NUM_THREADS=1 CLOUDS_D2=detectron2 $(D2_BIN)/$(PYTEST)
	set -e; for project in $(PROJECTS); do (cd $$project && OMP_NUM_THREADS=1 CLOUDS_D2=detectron2 $(CURDIR)/$(D2_BIN)/$(PYTEST)); done

# The documentation site in site/: open site/index.html, or make docs SERVE=1 and follow the address
# The variable hides an announcement of the theme about another program.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs $(if $(SERVE),serve,build)

# Time and memory against named peers: make bench QUICK=1 ONLY=training,labels PEER=<checkout of the published code>
bench: $(READY)
	PEER="$(PEER)" $(BIN)/python benchmarks/bench.py $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY)) $(if $(THREADS),--threads $(THREADS))

# Mutated inputs, of which none may give a traceback: make fuzz N=2000 SEED=3
N ?= 20000
SEED ?= 0
fuzz: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/fuzz.py --inputs $(N) --seed $(SEED)

# Kills, restarts and memory of long jobs, on one core: make soak KILLS=100 SEED=3 ONLY=kills,restarts,memory WRITE=1
KILLS ?= 1000
soak: $(READY)
	$(BIN)/python benchmarks/soak/soak.py --kills $(KILLS) --seed $(SEED) $(if $(ONLY),--only $(ONLY)) $(if $(WRITE),--write)

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(D2_VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build site *.egg-info projects/*/build projects/*/*.egg-info
	find clouds tests tools projects -name __pycache__ -type d -prune -exec rm -rf {} +

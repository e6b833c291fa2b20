# `make run` and `make test` do all the set-up they need; nothing but python3 and make must be there.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: run test check format bench setup
.DEFAULT_GOAL := run

run: setup  ## the bus on 127.0.0.1:8080, with a stand-in legacy service behind it
	@exec $(BIN)/python tools/run.py

test: setup  ## every test, on a RabbitMQ of their own
	@$(PYTHON) tools/rabbitmq.py install
	@$(BIN)/pytest -n auto $(ARGS)

check: setup  ## types, lint, import contracts, the generated pages
	$(BIN)/mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/esb schema --markdown | diff -u docs/options.md -

format: setup
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(BIN)/esb schema --markdown -o docs/options.md

bench: setup  ## the main uses beside nginx; needs wrk and nginx
	$(BIN)/python bench/run.py $(ARGS)

setup:
	@$(PYTHON) tools/setup.py

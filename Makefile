# make run          the chat page on http://127.0.0.1:7860 with the shipped small models
# make test         ruff, mypy and all tests; installs what they need first
# make setup        that installation alone
# make bench        speed and memory of the shipped models, into docs and README; nothing else should run
# make train-mini   trains every shipped model anew (data first), in order; resumable

PYTHON ?= python3
BIN := .venv/bin
export PYTHON

.PHONY: run setup test lint bench train-mini

run:
	tools/setup run
	$(BIN)/python app.py

setup:
	tools/setup test

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

bench:
	tools/setup test
	$(BIN)/python -m anygpt_demo bench --json docs/figures/bench.json --plot docs/figures/bench.png --page README.md --page docs/performance.md

train-mini:
	tools/setup train
	$(BIN)/python -m anygpt_demo synth all
	set -e; for stage in $$($(BIN)/python -c "from anygpt_demo.train import STAGES; print(*STAGES)"); do \
		$(BIN)/python -m anygpt_demo train $$stage; done

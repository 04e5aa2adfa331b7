# Everything that is done with Isthmus. `make demo` and `make test` set up what they need, once.
.PHONY: setup setup-kafka demo test lint docs bench bench-recovery chaos soak
SECONDS ?=
PYTEST ?=
CASES ?=
SEED ?= 1
PARTS ?=

setup:
	@bash deploy/setup.sh

setup-kafka:
	@bash deploy/setup.sh --kafka

demo: setup ## the whole system with live synthetic users, no Kafka needed
	@.venv/bin/isthmus demo $(if $(SECONDS),--seconds $(SECONDS))

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache

test: setup-kafka lint ## everything that CI runs
	.venv/bin/python -m pytest $(PYTEST)

docs: setup ## writes the generated reference pages and the AsyncAPI document anew
	.venv/bin/python -m deploy.generate

chaos: setup-kafka ## faults of every kind on real Kafka, about an hour; CASES="killed,disk" chooses; writes build/chaos.json
	.venv/bin/python -m tests.chaos.run --cases "$(CASES)" --seed $(SEED)

soak: setup-kafka ## half an hour (SECONDS) at 70 % of capacity, memory and descriptors watched; writes build/soak.json and .png
	.venv/bin/python -m tests.chaos.soak $(if $(SECONDS),--seconds $(SECONDS))

bench: setup-kafka ## the table against the field; writes build/bench.json (PARTS=throughput,latency chooses)
	@bash tests/benchmarks/setup.sh
	BENCH_PARTS=$(PARTS) .venv/bin/python -m tests.benchmarks.run

bench-recovery: setup-kafka ## a million users restored from the changelog, beside a bare reader; writes build/recovery.json
	.venv/bin/python -m tests.benchmarks.recovery

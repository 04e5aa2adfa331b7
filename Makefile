# Everything that is done with Isthmus. `make demo` and `make test` set up what they need, once.
.PHONY: setup setup-kafka demo test secured lint docs docs-serve api-fuzz screenshots bench bench-api bench-streams bench-replica bench-recovery bench-sink bench-audience bench-compression chaos chaos-api chaos-sinks soak results
SECONDS ?=
KAFKA ?=
PYTEST ?=
WORKERS ?= 2
CASES ?=
SEED ?= 1
RATE ?=
PARTS ?=
USERS ?=

setup:
	@bash deploy/setup.sh

setup-kafka:
	@bash deploy/setup.sh --kafka

demo: $(if $(KAFKA),setup-kafka,setup) ## the whole system with live synthetic users, no Kafka needed; KAFKA=1 runs it on a local broker
	@.venv/bin/isthmus demo $(if $(KAFKA),--kafka) $(if $(SECONDS),--seconds $(SECONDS))

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache

test: setup-kafka lint ## everything that CI runs, in WORKERS processes (0: in one, for a debugger); PYTEST="tests/unit -k gate" selects tests
	.venv/bin/python -m pytest --numprocesses $(WORKERS) --maxschedchunk 1 $(PYTEST)

secured: setup-kafka ## takes away each ACL of each process alone, and renews tokens and sessions under load for three minutes
	SECURED=full .venv/bin/python -m pytest tests/system/test_rights.py tests/system/test_reauthentication.py $(PYTEST)

docs: setup ## writes the generated reference pages and the AsyncAPI document, then builds the site into build/site
	.venv/bin/python -m deploy.generate_reference
	NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --strict

docs-serve: docs ## shows the site at http://127.0.0.1:8000 and rebuilds it when a page changes
	NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs serve --strict

screenshots: setup-kafka ## pictures of the pages while the demo runs: writes docs/img/live.png, and all of them to build/screenshots
	.venv/bin/python -m deploy.screenshots

chaos: setup-kafka ## faults of every kind on real Kafka, about an hour; CASES="killed,disk" chooses; writes build/chaos.json
	.venv/bin/python -m tests.chaos --cases "$(CASES)" --seed $(SEED)

chaos-api: setup-kafka ## replicas of the API with both stores under faults, 5 minutes (SECONDS); each answer is judged; writes build/chaos-api.json
	.venv/bin/python -m tests.chaos.api $(if $(SECONDS),--seconds $(SECONDS)) --seed $(SEED)

chaos-sinks: setup-kafka ## faults of sinks on real Kafka and PostgreSQL, about an hour; CASES="killed: endpoint" chooses; writes build/chaos-sinks.json
	.venv/bin/python -m tests.chaos.sinks --cases "$(CASES)" --seed $(SEED) $(if $(RATE),--rate $(RATE))

soak: setup-kafka ## half an hour (SECONDS) at 70 % of capacity, memory and descriptors watched; writes build/soak.json and .png
	.venv/bin/python -m tests.chaos.soak $(if $(SECONDS),--seconds $(SECONDS))

bench: setup-kafka ## the table against the field; writes build/bench.json (PARTS=throughput,latency chooses)
	@bash tests/benchmarks/environment.sh
	BENCH_PARTS=$(PARTS) .venv/bin/python -m tests.benchmarks

api-fuzz: setup ## requests by the API's document, alone and in sequences, EXAMPLES (500) of each, then a million over the rate; minutes
	API_EXAMPLES=$(or $(EXAMPLES),500) .venv/bin/python -m pytest tests/contracts/test_api_contract.py $(PYTEST)
	HOSTILE_REQUESTS=1000000 .venv/bin/python -m pytest tests/system/test_api_greedy_clients.py $(PYTEST)

bench-api: setup ## reads of the API from a store of a million users, beside a bare route; writes build/api.json
	.venv/bin/python -m tests.benchmarks.api

bench-streams: setup-kafka ## from a purchase by HTTP to the new list on its user's stream, 200 a second, 300 and 1,000 open streams; writes build/streams.json
	.venv/bin/python -m tests.benchmarks.streams $(if $(SECONDS),--seconds $(SECONDS))

bench-replica: setup-kafka ## memory and start of a replica of the API with a million users, from an empty and a kept store; writes build/replica.json
	.venv/bin/python -m tests.benchmarks.replica

bench-recovery: setup-kafka ## a million users restored from the changelog, beside a bare reader; writes build/recovery.json
	.venv/bin/python -m tests.benchmarks.recovery

bench-sink: setup-kafka ## first load of the PostgreSQL sink with a million users (USERS), then its throughput; writes build/sink.json
	.venv/bin/python -m tests.benchmarks.sink $(if $(USERS),--users $(USERS))

bench-compression: setup-kafka ## bytes of each topic and CPU with each codec; writes build/compression.json
	.venv/bin/python -m tests.benchmarks.compression

bench-audience: setup-kafka ## `isthmus audience` over a million users (USERS); writes build/audience.json
	.venv/bin/python -m tests.benchmarks.audience $(if $(USERS),--users $(USERS))

SGD ?=
SEEDS ?= 5
THIN_SEEDS ?= 3
SYSTEMS ?= all
results: setup ## trains and compares all systems and writes training/RESULTS.md; SGD=DIR holds the draws seed0, seed1, seed2; hours (SEEDS, THIN_SEEDS, SYSTEMS); goes on where it stopped
	@test -d "$(SGD)" || { echo "say where the SGD tables are: make results SGD=DIR (with seed0, seed1 and seed2 in it)"; exit 2; }
	for draw in 0 1 2; do .venv/bin/isthmus benchmark --data $(SGD)/seed$$draw --systems $(SYSTEMS) --seeds $(SEEDS) --out build/results/sgd$$draw.json || exit 1; done
	.venv/bin/isthmus dataset synthesize --out build/world --purchases 12000 --seed 100 --force
	.venv/bin/isthmus benchmark --data build/world --systems $(SYSTEMS) --seeds $(SEEDS) --out build/results/world.json
	.venv/bin/isthmus benchmark --data $(SGD)/seed0 --thin --seeds $(THIN_SEEDS) --out build/results/sgd0-thin.json
	.venv/bin/isthmus benchmark --data build/world --thin --seeds $(THIN_SEEDS) --out build/results/world-thin.json
	.venv/bin/python -m training.evaluation.results_page build/results

"""A program, not part of the test suite: `make chaos` injects faults into real Kafka while events flow and checks what is left.

`python -m tests.chaos` runs the cases and `python -m tests.chaos.soak` the endurance run; `python -m tests.chaos.explain` shows
what differed in a failed case. The suite runs one short case (`tests/system/test_kafka_chaos.py`).

`make chaos-sinks` (`python -m tests.chaos.sinks`) does the same with sinks, PostgreSQL and an endpoint. Short forms of its cases
are in `tests/system/test_sink_processes.py`, `tests/system/test_postgres_sink.py` and `tests/unit/test_webhook_sink.py`.

`make chaos-api` (`python -m tests.chaos.api`) judges each answer of the API meanwhile. Short forms of its faults are in
`tests/system/test_api_kafka.py` and `tests/unit/test_api_restored_store.py`.
"""

"""The short form of `make chaos` on real Kafka: one case with the most common faults."""

from pathlib import Path

import pytest

from tests.chaos.cases import SHORT
from tests.chaos.stage import run_case
from tests.system.needs import broker_or_skip


@pytest.mark.timeout(400)
def test_kills_of_worker_and_encoder_lose_nothing_and_apply_nothing_twice(tmp_path: Path) -> None:
    """The worker is killed in mid-stream, once with its store wiped, and the encoder while clicks flow. Histories, newest examples
    and last lists are exact, everything is committed, no id has two contents, and only planted events are dead letters.
    """
    broker_or_skip()
    row = run_case(SHORT, tmp_path / "case", seed=1)
    assert row["ok"], row
    assert row["events"] > 1_000
    assert row["ended_by_themselves"] == 0

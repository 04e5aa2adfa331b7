"""The embedded log: offsets, groups, compaction, and a SQLite file that survives a kill and admits one process."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from stream.core.outputs import Output
from stream.core.partitioner import partition_of
from stream.core.records import PlainRecord
from stream.errors import IsthmusError
from stream.kafka.cluster.topics import TopicSpec
from stream.kafka.embedded.log import Log, compact, open_log
from stream.kafka.embedded.storage import Storage

APPENDED = TopicSpec("clicks", "clicks", "user", 3, {"message.timestamp.type": "LogAppendTime"})
COMPACTED = TopicSpec("items", "items", "item", 1, {"cleanup.policy": "compact"})


async def test_records_are_stored_in_order_in_the_partition_of_their_key() -> None:
    """As with Kafka's default partitioner; offsets begin at zero."""
    log = Log()
    log.create_topics([APPENDED])
    offsets = [await log.append("clicks", "user-1", str(number).encode()) for number in range(3)]
    number = partition_of(b"user-1", 3)
    assert offsets == [0, 1, 2]
    assert [record.value for record in log.read("clicks", number, 1, 9)] == [b"1", b"2"]


async def test_timestamps_come_from_the_log_with_append_time_and_otherwise_from_the_producer() -> None:
    """The step's only clock is the broker's."""
    log = Log()
    log.create_topics([APPENDED, COMPACTED])
    await log.append_to("clicks", 0, Output(b"u", b"x"), 5)
    await log.append_to("items", 0, Output(b"i", b"x"), 5)
    assert log.read("clicks", 0, 0, 1)[0].timestamp > 1_700_000_000_000
    assert log.read("items", 0, 0, 1)[0].timestamp == 5


async def test_lag_counts_the_records_that_a_group_has_not_committed() -> None:
    """Over all partitions of its topics."""
    log = Log()
    log.create_topics([APPENDED])
    for _ in range(4):
        await log.append_to("clicks", 1, Output(b"u", b"x"), None)
    log.commit("group", {("clicks", 1): 3})
    assert log.lag("group", ["clicks"]) == 1
    assert log.lag("other", ["clicks"]) == 4


def test_compaction_keeps_the_newest_record_of_each_key_and_the_last_record() -> None:
    """The last one is kept even if it is a tombstone: it defines the partition's end."""
    records = [
        PlainRecord(offset, 0, key, value)
        for offset, (key, value) in enumerate([(b"a", b"1"), (b"b", b"1"), (b"a", b"2"), (b"b", None)])
    ]
    assert [(record.key, record.value) for record in compact(records)] == [(b"a", b"2"), (b"b", None)]


def test_opening_a_log_with_another_partition_count_is_refused() -> None:
    """It cannot be changed: keys would move to other partitions."""
    log = Log()
    log.create_topics([COMPACTED])
    with pytest.raises(IsthmusError, match="1 partitions, not 2"):
        log.create_topics([TopicSpec("items", "items", "item", 2)])


async def test_a_restored_log_has_the_same_epochs_records_and_offsets(tmp_path: Path) -> None:
    """Offsets continue; a compacted topic is compacted when the log is opened."""
    log = open_log("restored", tmp_path)
    log.create_topics([APPENDED, COMPACTED])
    epochs = log.epochs(["clicks", "items"])
    for value in (b"1", b"2", b"3"):
        await log.append("items", "one", value)
    await log.append("clicks", None, b"no key")
    log.commit("group", {("items", 0): 2})
    await log.close()
    again = open_log("restored", tmp_path)
    assert again.epochs(["clicks", "items"]) == epochs
    assert [(record.offset, record.value) for record in again.read("items", 0, 0, 9)] == [(2, b"3")]
    assert again.read("clicks", 0, 0, 9)[0].key is None
    assert again.committed == {"group": {("items", 0): 2}}
    assert await again.append("items", "one", b"4") == 3
    await again.close()


def test_a_second_process_cannot_open_the_same_log(tmp_path: Path) -> None:
    """Two writers would corrupt the log."""
    storage = Storage(tmp_path / "log.sqlite")
    code = "import sys; from pathlib import Path; from stream.kafka.embedded.storage import Storage; Storage(Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "log.sqlite")], check=False, capture_output=True)
    assert b"in use by another process" in done.stderr
    storage.close()


def test_acknowledged_records_survive_a_kill(tmp_path: Path) -> None:
    """A child process appends and reports each offset once its future is done. After kill -9, no reported record is missing."""
    code = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom stream.kafka.embedded.log import open_log\n"
        "from stream.kafka.cluster.topics import TopicSpec\nasync def main():\n"
        "    log = open_log('killed', Path(sys.argv[1]))\n    log.create_topics([TopicSpec('clicks', 'clicks', 'user', 1)])\n"
        "    for number in range(100_000):\n        print(await log.append('clicks', 'u', str(number).encode()), flush=True)\n"
        "asyncio.run(main())"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    reported = [int(child.stdout.readline()) for _ in range(40)]
    child.kill()
    reported += [int(line) for line in child.stdout.read().splitlines() if line.strip()]
    child.wait()

    async def stored_offsets() -> list[int]:
        log = open_log("killed", tmp_path)
        offsets = [record.offset for record in log.read("clicks", 0, 0, 100_000)]
        await log.close()
        return offsets

    offsets = asyncio.run(stored_offsets())
    assert offsets[: len(reported)] == reported

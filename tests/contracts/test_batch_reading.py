"""What `stream.kafka.cluster.batch_reading` needs of both clients' fetchers, and that they still cannot do without it."""

import inspect
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer import consumer as aiokafka_consumer
from aiokafka.consumer import fetcher as aiokafka_fetcher
from aiokafka.consumer.fetcher import Fetcher as AiokafkaFetcher
from aiokafka.record.memory_records import MemoryRecords
from kafka.consumer.fetcher import Fetcher
from kafka.record.memory_records import MemoryRecords as KafkaPythonRecords

from stream.kafka.cluster import batch_reading
from tests.batches import build, seal

NOT_UTF8 = seal(build().replace(b"\x02h\x02v", b"\x02\xff\x02v", 1))
_OWN = next(base for base in batch_reading.TolerantPartitionRecords.__mro__ if base.__module__ == "aiokafka.consumer.fetcher")


def test_aiokafkas_fetcher_takes_both_classes_from_its_module() -> None:
    """`install` replaces them there; the consumer hands `check_crcs` through as it is."""
    source = inspect.getsource(AiokafkaFetcher._proc_fetch_request)
    assert "records = MemoryRecords(" in source
    assert "partition_records = PartitionRecords(" in source
    assert "self._check_crcs," in source
    assert "check_crcs=self._check_crcs" in inspect.getsource(AIOKafkaConsumer.start)
    assert "self._fetcher = Fetcher(\n            self._client," in inspect.getsource(AIOKafkaConsumer.start)
    assert "response = await self._client.send(node_id, request)" in source
    assert list(inspect.signature(_OWN.__init__).parameters)[1:] == [
        "tp",
        "records",
        "aborted_transactions",
        "fetch_offset",
        "key_deserializer",
        "value_deserializer",
        "check_crcs",
        "isolation_level",
    ]


def test_installing_is_seen_by_new_fetches() -> None:
    """Twice is once."""
    batch_reading.install()
    batch_reading.install()
    assert aiokafka_fetcher.MemoryRecords is batch_reading.FetchedBatches
    assert aiokafka_fetcher.PartitionRecords is batch_reading.TolerantPartitionRecords
    assert aiokafka_consumer.Fetcher is batch_reading.TolerantFetcher


def test_kafka_pythons_fetcher_takes_the_class_from_itself() -> None:
    """`read_tolerantly` sets it on the instance; its records show the bytes of the fetch."""
    assert "self.PartitionRecords(fetch_offset, tp, records," in inspect.getsource(Fetcher._parse_fetched_data)
    assert "check_crcs=self.config['check_crcs']" in inspect.getsource(Fetcher._parse_fetched_data)
    assert bytes(KafkaPythonRecords(NOT_UTF8)._buffer) == NOT_UTF8
    assert "self._parse_fetched_data(completion)" in inspect.getsource(Fetcher)


def _aiokafkas_own() -> list[Any]:
    return list(_OWN(TopicPartition("t", 0), MemoryRecords(NOT_UTF8), [], 0, None, None, True, 1))


def _kafka_pythons_own() -> list[Any]:
    return list(Fetcher.PartitionRecords(0, TopicPartition("t", 0), KafkaPythonRecords(NOT_UTF8)).take())


@pytest.mark.parametrize("read", [_aiokafkas_own, _kafka_pythons_own])
def test_the_clients_own_reading_raises_at_a_header_name_that_is_not_utf8(read: Any) -> None:
    """If this fails, a client reads past it by itself."""
    with pytest.raises(Exception, match="utf-8"):
        read()

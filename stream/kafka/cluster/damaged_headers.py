"""What a broker answers where the header of a stored batch is damaged, and how a reader of either client library learns of it.

A broker finds a batch by the lengths in the headers before it. If a length is impossible, it answers CORRUPT_MESSAGE; if it reaches
beyond the file, it answers nothing, although there is more. The libraries ask again for ever. Here both answers become data that
`FetchedBatches` cannot read, so that the consumer's `CorruptBatchPolicy` decides, as about a batch whose checksum fails.
tests/contracts/test_batch_reading.py fails when the clients' code changes.
"""

import struct
import time
from collections.abc import Callable
from typing import Any, Final

_CORRUPT_MESSAGE: Final = 2
LENGTH_ENDS: Final = 12
"""Base offset and length come first, and the length does not count them."""
_HEADER_ENDS: Final = 61
_MAGIC: Final = 16
_SHORTEST_LEGACY: Final = 14
"""A message of format v0: checksum, magic, attributes and two lengths."""
_FORGOTTEN_S: Final = 30.0
"""A partition that was not asked for so long was paused."""
SILENT_S: Final = 10.0
"""Other partitions of a fetch may use up its bytes now and then, but not for so long: aiokafka and kafka-python take turns."""
REFUSED: Final = bytes(LENGTH_ENDS)
SILENT: Final = b"\xff" * LENGTH_ENDS


def batch_end(data: bytes, position: int) -> int | None:
    """Where the batch at a position of a fetch ends; None if its length is impossible."""
    if len(data) < position + LENGTH_ENDS:
        return None
    (length,) = struct.unpack_from(">i", data, position + 8)
    end: int = position + LENGTH_ENDS + length
    if length < _SHORTEST_LEGACY or (end <= len(data) and data[position + _MAGIC] >= 2 and end < position + _HEADER_ENDS):
        return None
    return end


class Answers:
    """A consumer's answers, partition by partition: records as they came, or `REFUSED` or `SILENT` in their place."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._silent: dict[Any, tuple[int, float, float]] = {}  # offset, first and last answer

    def check(self, tp: Any, offset: int, error_code: int, stable_end: int, records: bytes | None) -> tuple[int, bytes | None]:
        """The error code and the records to go on with. `stable_end`: the end of what may be read."""
        if error_code == _CORRUPT_MESSAGE:
            return 0, REFUSED
        if error_code or records or stable_end <= offset:
            self._silent.pop(tp, None)
            return error_code, records
        now = self._now()
        known, since, last = self._silent.get(tp, (offset, now, now))
        if known != offset or now - last > _FORGOTTEN_S:
            since = now
        self._silent[tp] = offset, since, now
        return (0, SILENT) if now - since >= SILENT_S else (error_code, records)


class AnswersOfAiokafka:
    """Stands between aiokafka's fetcher and its client, and checks what brokers answer to fetches."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._answers = Answers()
        self.cluster = client.cluster  # the fetcher asks for it at each partition

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def send(self, node_id: int, request: Any, **options: Any) -> Any:
        response = await self._client.send(node_id, request, **options)
        if response.API_KEY == 1 and response.API_VERSION >= 4:  # Fetch, with the end of what may be read
            asked = {(topic, number): offset for topic, partitions in request.topics for number, offset, *_ in partitions}
            response.topics = [
                (topic, [self._checked(topic, partition, asked) for partition in partitions])
                for topic, partitions in response.topics
            ]
        return response

    def _checked(self, topic: str, answer: Any, asked: dict[Any, int]) -> Any:
        number, code, high, stable_end, *middle, records = answer
        code, records = self._answers.check((topic, number), asked[topic, number], code, stable_end, records)
        return number, code, high, stable_end, *middle, records


def check_answers(fetcher: Any) -> None:
    """Makes the fetcher of one kafka-python consumer check what brokers answer."""
    answers, parse = Answers(), fetcher._parse_fetched_data

    def checked(fetch: Any) -> Any:
        data = fetch.partition_data
        records = bytes(data.records or b"")
        code, records_or_none = answers.check(
            fetch.topic_partition, fetch.fetched_offset, data.error_code, data.last_stable_offset, records
        )
        found = records_or_none or b""
        end = batch_end(found, 0) if found else 0
        if found and (end is None or end > len(found)):  # kafka-python would raise before anything is read
            found = SILENT if found == SILENT else REFUSED
        if found is not records:
            data.error_code, data.records = code, found
        return parse(fetch)

    fetcher._parse_fetched_data = checked

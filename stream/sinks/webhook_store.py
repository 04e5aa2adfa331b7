"""An endpoint as a store: posts batches, and keeps positions in the consumer group.

The group keeps the offset of each partition and, as metadata, its full position. Messages of a partition are posted one at a time,
in the order of the topic. An erasure is a message of its own and is retried for ever.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import msgspec

from stream.api.store import Position, Row, Table
from stream.metrics import Metrics
from stream.sinks.undelivered import Letters, Requests, Scan, latest_of
from stream.sinks.webhook_messages import Erased, Kind, Message, Reconciled, SentList, Updated, encode_message, time_text
from stream.sinks.webhook_sender import NotTaken, Sender

logger = logging.getLogger("isthmus")
SINK: Final = "webhook"


class Note(msgspec.Struct, frozen=True, array_like=True):
    """What the group keeps about a partition.

    Attributes:
        position: How far the partition was followed.
        began_at: Start of the current pass, ms.
        replayed: Number of the last replay request that was handled; -1 for none.
        sent_at: Timestamp of the newest message, ms; 0 in notes of earlier versions.
    """

    position: Position
    began_at: int
    replayed: int = -1
    sent_at: int = 0


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Note).decode
_decode_list: Final = msgspec.json.Decoder(dict[str, Any]).decode  # whole: a raw field is not checked
_MESSAGE_BYTES: Final = 900_000
"""Largest size of the lists in a message, unless one alone is larger: nginx accepts 1 MB by default."""


class Group(Protocol):
    """Membership in a consumer group, as far as the sink uses it."""

    @property
    def version(self) -> int: ...

    async def note(self, partition: tuple[str, int]) -> str | None: ...

    async def commit(self, partition: tuple[str, int], offset: int, note: str) -> None: ...


class WebhookStore:
    """Implements `stream.api.store.FollowedStore` for lists by posting to an endpoint."""

    def __init__(
        self,
        topic: str,
        group: Group,
        sender: Sender,
        letters: Letters,
        requests: Requests,
        scan: Scan,
        metrics: Metrics,
        clock_ms: Callable[[], int],
        batch_lists: int,
    ) -> None:
        self._topic = topic
        self._group = group
        self._sender = sender
        self._letters = letters
        self._requests = requests
        self._scan = scan
        self._metrics = metrics
        self._clock_ms = clock_ms
        self._batch_lists = batch_lists
        self._notes: dict[int, Note] = {}

    async def position(self, table: Table, partition: int) -> Position | None:
        del table
        kept = await self._group.note((self._topic, partition))
        try:
            self._notes[partition] = _decode(kept or "")
        except msgspec.MsgspecError:
            self._notes.pop(partition, None)
            return None
        return self._notes[partition].position

    async def begin(self, table: Table, partition: int, epoch: int, now_ms: int, former: Position | None) -> Position:
        del table, former
        kept = self._notes.get(partition)
        if kept is None:
            note = Note(Position(epoch, 1, as_of_ms=now_ms), now_ms)
        else:
            position = Position(epoch, kept.position.generation + 1, as_of_ms=now_ms)
            began_at = max(now_ms, kept.sent_at + 1)  # the clock of the former owner may have been ahead
            note = Note(position, began_at, kept.replayed, kept.sent_at)
        await self._keep(partition, note)
        return self._notes[partition].position

    async def write(self, table: Table, partition: int, rows: Sequence[Row], position: Position, after: int) -> bool:
        del table, after
        with self._metrics.histogram("sink_seconds", SINK).time():
            await self._replay(partition)
            for part in self._parts(partition, rows):
                await self._send(partition, part)
                moved = msgspec.structs.replace(self._notes[partition].position, next_offset=part[-1].offset + 1)
                await self._keep(partition, msgspec.structs.replace(self._notes[partition], position=moved))
        await self._keep(partition, msgspec.structs.replace(self._notes[partition], position=position))
        return True

    async def complete(self, table: Table, partition: int, position: Position) -> int | None:
        """Posts `recommendations.reconciled`. The receiver may hold more from an earlier pass, even from one that the group forgot
        when its topic was deleted.
        """
        del table
        note = self._notes[partition]
        position = note.position
        if not position.complete:
            name = f"reconciled-{position.epoch}-{partition}-{note.began_at}"
            said = Reconciled(position.epoch, partition, time_text(note.began_at))
            await self._sender.post(name, self._body(partition, "recommendations.reconciled", said), for_ever=True)
        done = msgspec.structs.replace(position, complete=True)
        await self._keep(partition, msgspec.structs.replace(self._notes[partition], position=done))
        return 0

    async def close(self) -> None:
        await self._sender.close()

    def _parts(self, partition: int, rows: Sequence[Row]) -> list[list[Row]]:
        """Groups rows into messages, in order. An erasure stands alone. Skips lists that a later record supersedes, and records
        that are not a list of their key's user, because that user's erasure would not cover them.
        """
        newest = {row.key: row.offset for row in rows}
        parts: list[list[Row]] = []
        held = 0
        for row in rows:
            if row.value is None:
                parts.append([row])
            elif newest[row.key] != row.offset:
                self._count("superseded")
            elif not _is_list_of(row.key, row.value):
                self._count("refused")
                text = "the record at offset %d of partition %d is not a list of its user, who keeps the last one; it is not sent"
                logger.error(text, row.offset, partition)
            elif parts and parts[-1][0].value is not None and self._has_room(parts[-1], held + len(row.value)):
                parts[-1].append(row)
                held += len(row.value)
            else:
                parts.append([row])
                held = len(row.value)
        return parts

    def _has_room(self, part: Sequence[Row], held: int) -> bool:
        return len(part) < self._batch_lists and held <= _MESSAGE_BYTES

    async def _send(self, partition: int, part: Sequence[Row], prefix: str = "lists") -> None:
        """Posts one message. Lists that the endpoint does not accept become dead letters."""
        note = self._notes[partition]
        epoch = note.position.epoch
        name = f"{prefix}-{epoch}-{partition}-{note.began_at}-{part[0].offset}-{part[-1].offset}"
        if part[0].value is None:
            said = Erased(epoch, partition, part[0].offset, part[0].key.decode(errors="replace"))
            await self._sender.post(name, self._body(partition, "user.erased", said), for_ever=True)
            self._count("deleted")
            return
        lists = tuple(SentList(row.offset, msgspec.Raw(row.value or b"")) for row in part)
        try:
            body = self._body(partition, "recommendations.updated", Updated(epoch, partition, lists))
            await self._sender.post(name, body, for_ever=False)
        except NotTaken as error:
            await self._give_up(partition, part, str(error))
        else:
            self._count("written", len(part))

    async def _give_up(self, partition: int, part: Sequence[Row], why: str) -> None:
        await self._letters.send(part, self._notes[partition].position.epoch, partition, why)
        self._count("undelivered", len(part))
        text = "%d lists of partition %d, offsets %d to %d, were given up (%s): when the endpoint takes messages again, run "
        text += "`isthmus dead-letters replay --reason undelivered`"
        logger.error(text, len(part), partition, part[0].offset, part[-1].offset, why)

    async def _replay(self, partition: int) -> None:
        """Sends the current lists of the users in replay requests, up to the position. Later records are sent anyway."""
        note = self._notes[partition]
        requests = self._requests.of(partition, note.position.epoch, note.replayed)
        due = [one for one in requests if one.offset < note.position.next_offset]
        if not requests:
            return
        last = max(one.number for one in requests)
        if due:
            rows = await latest_of(self._scan, partition, {one.offset for one in due}, note.position.next_offset)
            for part in self._parts(partition, rows):
                await self._send(partition, part, f"again-{last}")
        await self._keep(partition, msgspec.structs.replace(self._notes[partition], replayed=last))

    async def _keep(self, partition: int, note: Note) -> None:
        await self._group.commit((self._topic, partition), note.position.next_offset, _encode(note).decode())
        self._notes[partition] = note

    def _body(self, partition: int, kind: Kind, data: Updated | Erased | Reconciled) -> bytes:
        """Encodes a message. Timestamps of a partition never decrease, even if its next owner's clock is behind."""
        note = self._notes[partition]
        at = max(self._clock_ms(), note.began_at, note.sent_at)
        self._notes[partition] = msgspec.structs.replace(note, sent_at=at)
        return encode_message(Message(kind, time_text(at), data))

    def _count(self, outcome: str, by: int = 1) -> None:
        self._metrics.counter("sink_records", SINK, outcome).inc(by)


def _is_list_of(key: bytes, value: bytes) -> bool:
    try:
        user = _decode_list(value).get("user_id")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    return isinstance(user, str) and user.encode() == key

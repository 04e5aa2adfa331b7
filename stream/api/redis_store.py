"""The shared store: a Redis server or cluster that all replicas read, and that the consumer group over them writes.

The rows of a table's partition are one hash, `{PREFIX:PARTITION}:TABLE`, and its position is another; the braces keep them on one
node of a cluster, so that one script compares and writes them. Value of a row: generation (4 bytes), value. Numbers of positions
are text, because Lua's own lose digits of an epoch. Which lists changed is published on the channel `PREFIX:changed`.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from struct import Struct
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from stream.api.store import Position, Row, StoreAwayError, Table
from stream.errors import IsthmusError

logger = logging.getLogger("isthmus")
ANSWER_S: Final = 2.0  # a server that takes longer is away
AGAIN_S: Final = 1.0
_GENERATION: Final = Struct(">I")
_SWEPT: Final = 1_000  # rows looked at in one call: the server does nothing else meanwhile
_changed: Final = msgspec.msgpack.Decoder(list[str]).decode

_IS_CURRENT: Final = """
local kept = redis.call('HMGET', KEYS[1], 'epoch', 'generation', 'next_offset', 'as_of_ms', 'complete')
if kept[1] ~= ARGV[1] or kept[2] ~= ARGV[2] or tonumber(kept[3]) < tonumber(ARGV[3]) then return nil end
"""
"""Ends a script, with nil, for a writer of another pass, or of offsets that do not follow the kept one.

ARGV: epoch, generation, offset.
"""

# KEYS: position, rows. ARGV: epoch and generation of the former position, or two empty texts; those of the new one, and the time.
_BEGIN: Final = """
local kept = redis.call('HMGET', KEYS[1], 'epoch', 'generation')
if (kept[1] or '') ~= ARGV[1] or (kept[2] or '') ~= ARGV[2] then return nil end
if not kept[1] then redis.call('UNLINK', KEYS[2]) end
redis.call('HSET', KEYS[1], 'epoch', ARGV[3], 'generation', ARGV[4], 'as_of_ms', ARGV[5])
redis.call('HSET', KEYS[1], 'next_offset', '0', 'complete', '0', 'term', '0')
return 1
"""

# KEYS: position, rows. ARGV: epoch, generation, after, next_offset, as_of_ms, complete, term, channel; then offset, key, value of
# each row, where an empty value deletes.
_WRITE: Final = (
    _IS_CURRENT
    + """
local covered, changed = tonumber(kept[3]), {}
for i = 9, #ARGV, 3 do
  if tonumber(ARGV[i]) >= covered then
    if ARGV[i + 2] == '' then redis.call('HDEL', KEYS[2], ARGV[i + 1])
    else redis.call('HSET', KEYS[2], ARGV[i + 1], ARGV[i + 2]) end
    changed[#changed + 1] = ARGV[i + 1]
  end
end
if tonumber(ARGV[4]) >= covered then
  local as_of, complete = ARGV[5], ARGV[6]
  if tonumber(kept[4]) > tonumber(as_of) then as_of = kept[4] end
  if kept[5] == '1' then complete = '1' end
  redis.call('HSET', KEYS[1], 'next_offset', ARGV[4], 'as_of_ms', as_of, 'complete', complete, 'term', ARGV[7])
end
if ARGV[8] ~= '' and #changed > 0 then redis.call('PUBLISH', ARGV[8], cmsgpack.pack(changed)) end
return 1
"""
)

# KEYS: position, rows. ARGV: epoch, generation, next_offset, cursor, rows to look at. Returns the next cursor and how many went.
_SWEEP: Final = (
    _IS_CURRENT
    + """
local deleted, cursor = 0, '0'
if tonumber(ARGV[2]) > 1 then
  local found = redis.call('HSCAN', KEYS[2], ARGV[4], 'COUNT', ARGV[5])
  cursor = found[1]
  for i = 1, #found[2], 2 do
    if struct.unpack('>I4', found[2][i + 1]) < tonumber(ARGV[2]) then
      deleted = deleted + redis.call('HDEL', KEYS[2], found[2][i])
    end
  end
end
if cursor == '0' then redis.call('HSET', KEYS[1], 'complete', '1') end
return {cursor, deleted}
"""
)


class RedisStore:
    """`stream.api.store.Store` on a server or cluster. Every method raises StoreAwayError where it does not answer."""

    def __init__(self, client: Any, prefix: str, place: str) -> None:
        """`place` names the server in messages, without a password."""
        self._client = client
        self._prefix = prefix
        self._place = place

    async def position(self, table: Table, partition: int) -> Position | None:
        stored = await self._answer(self._client.hgetall(self._keys(table, partition)[0]))
        return _position(stored) if stored else None

    async def begin(self, table: Table, partition: int, epoch: int, now_ms: int, former: Position | None) -> Position | None:
        position = Position(epoch, 1 if former is None else former.generation + 1, as_of_ms=now_ms)
        before = ("", "") if former is None else (former.epoch, former.generation)
        began = await self._run(_BEGIN, table, partition, *before, epoch, position.generation, now_ms)
        return None if began is None else position

    async def write(self, table: Table, partition: int, rows: Sequence[Row], position: Position, after: int) -> bool:
        stamp = _GENERATION.pack(position.generation)
        channel = self._channel if table is Table.LISTS else ""
        arguments: list[Any] = [position.epoch, position.generation, after, position.next_offset, position.as_of_ms]
        arguments += [int(position.complete), position.term, channel]
        for row in rows:
            arguments += [row.offset, row.key, b"" if row.value is None else stamp + row.value]
        return await self._run(_WRITE, table, partition, *arguments) is not None

    async def complete(self, table: Table, partition: int, position: Position) -> int | None:
        cursor, deleted = b"0", 0
        while True:
            swept: tuple[bytes, int] | None = await self._run(
                _SWEEP, table, partition, position.epoch, position.generation, position.next_offset, cursor, _SWEPT
            )
            if swept is None:
                return None
            cursor, deleted = swept[0], deleted + swept[1]
            if cursor == b"0":
                return deleted

    async def read(self, table: Table, keys: Sequence[tuple[int, bytes]]) -> list[bytes | None]:
        wanted: dict[int, list[int]] = {}
        for place, (partition, _) in enumerate(keys):
            wanted.setdefault(partition, []).append(place)
        calls = [(self._keys(table, partition)[1], [keys[place][1] for place in places]) for partition, places in wanted.items()]
        answers = await self._answer(self._hmget(calls))
        values: list[bytes | None] = [None] * len(keys)
        for places, stored in zip(wanted.values(), answers, strict=True):
            for place, value in zip(places, stored, strict=True):
                values[place] = None if value is None else value[_GENERATION.size :]
        return values

    async def _hmget(self, calls: Sequence[tuple[str, list[bytes]]]) -> list[list[bytes | None]]:
        if len(calls) == 1:
            return [await self._client.hmget(*calls[0])]
        async with self._client.pipeline(transaction=False) as pipeline:
            for rows, keys in calls:
                pipeline.hmget(rows, keys)
            answers: list[list[bytes | None]] = await pipeline.execute()
        return answers

    async def servers(self) -> frozenset[str]:
        """Returns the ids of the server processes that hold the rows: one that restarts, or takes over, has another."""
        if isinstance(self._client, RedisCluster):
            about: dict[str, Any] = await self._answer(self._client.info("server", target_nodes=RedisCluster.PRIMARIES))
            return frozenset(str(one["run_id"]) for one in about.values())
        return frozenset({str((await self._answer(self._client.info("server")))["run_id"])})

    async def keep_listening(self, changed: Callable[[Iterable[str]], None], lost: Callable[[], None]) -> None:
        """Tells `changed` which users' lists were written by any replica, for ever. What is published while the server is away
        is lost: streams look again every few seconds. `lost` is called the moment the connection ends.
        """
        while True:
            try:
                async with self._client.pubsub(ignore_subscribe_messages=True) as published:
                    await published.subscribe(self._channel)
                    while True:
                        message = await published.get_message(timeout=ANSWER_S / 2)
                        _end_if_cancelled()
                        if message is not None:
                            changed(_changed(message["data"]))
            except (RedisError, OSError, msgspec.MsgspecError) as error:
                _end_if_cancelled()
                lost()
                logger.warning("changes of lists at %s are not heard (%s); trying again", self._place, type(error).__name__)
                await asyncio.sleep(AGAIN_S)

    async def close(self) -> None:
        await self._client.aclose()

    @property
    def _channel(self) -> str:
        return f"{self._prefix}:changed"

    def _keys(self, table: Table, partition: int) -> tuple[str, str]:
        """The keys of a partition's position and rows."""
        rows = f"{{{self._prefix}:{partition}}}:{table.value}"
        return f"{rows}:position", rows

    async def _run(self, script: str, table: Table, partition: int, *arguments: Any) -> Any:
        return await self._answer(self._client.eval(script, 2, *self._keys(table, partition), *arguments))

    async def _answer(self, answer: Any) -> Any:
        """Awaits an answer. redis-py 8.1 may swallow a task's cancellation, so that is looked up."""
        try:
            found = await answer
        except (RedisError, OSError) as error:
            _end_if_cancelled()
            raise StoreAwayError(f"the store at {self._place} does not answer ({type(error).__name__}: {error})") from error
        _end_if_cancelled()
        return found


def _end_if_cancelled() -> None:
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def open_redis_store(url: str, prefix: str) -> RedisStore:
    """Connects to the server, or the cluster, that `url` names.

    Raises:
        IsthmusError: it cannot be used.
    """
    place = _place(url)
    retry = Retry(NoBackoff(), 1)  # one: a connection that the server closed; what is away is the caller's affair
    options: dict[str, Any] = {"socket_timeout": ANSWER_S, "socket_connect_timeout": ANSWER_S, "retry": retry}
    try:
        client: Any = Redis.from_url(url, **options)
        try:
            about = {**await client.info("cluster"), **await client.info("memory")}
        finally:
            await client.aclose()
        if about.get("cluster_enabled"):
            client = RedisCluster.from_url(url, **options)
    except (RedisError, OSError, ValueError) as error:
        raise IsthmusError(f"the store at {place} (api.redis_url) cannot be used ({type(error).__name__}: {error})") from error
    if str(about.get("maxmemory_policy", "")).startswith("allkeys"):
        raise IsthmusError(
            f"the store at {place} may evict rows that the topics still hold: set its maxmemory-policy to noeviction"
        )
    return RedisStore(client, prefix, place)


def _place(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname or ''}:{parts.port or 6379}" if parts.hostname else parts.path


def _position(stored: dict[bytes, bytes]) -> Position:
    numbers = {name.decode(): int(value) for name, value in stored.items()}
    return Position(
        numbers["epoch"],
        numbers["generation"],
        numbers["next_offset"],
        numbers["as_of_ms"],
        bool(numbers["complete"]),
        numbers["term"],
    )

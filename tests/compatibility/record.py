"""Records what this version writes: `python -m tests.compatibility.record NAME` makes `NAME.tar.xz` beside this file.

Run it before a change of the wire, and keep the archive: the test beside it reads every archive in this folder.
"""

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import torch

from models.artifact import load_ranker, write_ranker
from models.network import GruConfig, NeuralRanker
from models.networks.generative_imputation import GenerativeConfig
from models.networks.isthmus import IsthmusConfig
from models.networks.knowledge_distillation import DistillationConfig
from models.networks.late_fusion import FusionConfig
from models.networks.latent_feature import LatentFeatureConfig
from models.networks.relative_representation import RelativeConfig
from models.systems import POPULAR, SYSTEMS
from stream.core.announcements import ModelAnnouncement, encode_announcement
from stream.core.events import Item, Source
from stream.core.history import AnyInteraction
from stream.core.interactions import Conversation
from stream.core.outputs import Replayed, decode_example
from stream.core.ranking import Catalogue, PostFilter, Ranker
from stream.core.records import Batch, PlainRecord
from stream.core.state import decode_facts, decode_head, encode_state
from stream.core.step import StepConfig, step
from stream.text.encode_stage import encode_batch
from stream.text.keywords import Keywords
from tests.compatibility.recording import (
    FOLDER,
    MODELS,
    RUNS,
    RecordedRun,
    RecordedScores,
    RecordedStep,
    Topics,
    Transcripts,
    pack,
    write,
)
from tests.compatibility.users import ITEMS, PARTITIONS, START_MS, TEXT_WIDTH, Sent, batches
from tests.rankers import KEYWORDS, TEXT_MODEL, random_ranker
from tests.world import Store

PRIOR: Final = np.linspace(0.5, 0.1, len(ITEMS), dtype=np.float32)
HISTORIES: Final = 12
CLEAR: Final = 1e-5
SEED: Final = 17


class TinyTextModel:
    """Stands in for the sentence encoder: a sentence's vector is a few bytes of its hash."""

    hash = TEXT_MODEL
    width = TEXT_WIDTH
    keywords = Keywords(KEYWORDS, rule=1)

    def encode(self, sentences: Sequence[str]) -> Any:
        digests = [hashlib.sha256(sentence.encode()).digest()[:TEXT_WIDTH] for sentence in sentences]
        numbers = np.frombuffer(b"".join(digests), dtype=np.int8).reshape(len(sentences), TEXT_WIDTH)
        return (numbers / 128).astype(np.float32)


def main(name: str) -> None:
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        rankers = _models(folder)
        items = _topics(folder, rankers)
        transcripts, sent = _encoded(list(batches(np.random.default_rng(SEED))))
        write(folder, "transcripts.msgpack", transcripts)
        first = [None, "popular-1", "popular-2"]
        popular = _run(sent, [first[3 * number // len(sent)] for number in range(len(sent))], rankers, items, exact=True)
        write(folder, f"{RUNS}/popular.msgpack", popular)
        half = len(sent) // 2
        networks = [name for name in rankers if not name.startswith(POPULAR)]
        served = [networks[number * 2 * len(networks) // (len(sent) - half) % len(networks)] for number in range(len(sent) - half)]
        states = _states(popular.steps[:half])
        write(folder, f"{RUNS}/networks.msgpack", _run(sent[half:][:90], served, rankers, items, states, exact=False, explain=True))
        older = {key: _with_keyword_lists(key, value) for key, value in states.items()}
        after = ["popular-2"] * 12
        write(folder, f"{RUNS}/keyword_lists.msgpack", _run(sent[half : half + 12], after, rankers, items, older, exact=True))
        _examples(folder, popular, rankers)
        pack(folder, FOLDER / f"{name}.tar.xz")
    print(f"{FOLDER / name}.tar.xz: {(FOLDER / f'{name}.tar.xz').stat().st_size} bytes")


def _models(folder: Path) -> dict[str, Ranker]:
    """One version of every system, and a second one of Popular and of our own."""
    rankers = {}
    for system, version in [*((system, 1) for system in SYSTEMS), (POPULAR, 2), ("isthmus", 2)]:
        prior = PRIOR if version == 1 else PRIOR[::-1].copy()
        ranker = random_ranker(system, ITEMS, prior, config=_tiny(system), text_width=TEXT_WIDTH, seed=version)
        if isinstance(ranker, NeuralRanker):
            with torch.no_grad():
                for weight in ranker.network.state_dict().values():
                    weight.copy_((weight * 32).round() / 32)  # few digits compress well
        path = folder / MODELS / f"{system}-{version}"
        sha256 = write_ranker(path, ranker, version=str(version), metrics={"hr3": 0.5}, last_event_ms=START_MS, examples=7)
        rankers[path.name] = load_ranker(str(path), sha256)
    return rankers


def _tiny(system: str) -> Any:
    sizes, other = GruConfig(hidden=4, dense=3), GruConfig(hidden=3, dense=2)
    return {
        "latent_feature": LatentFeatureConfig(latent=3, hidden=4, dense=3),
        "isthmus": IsthmusConfig(units=4),
        "late_fusion": FusionConfig(session=sizes, conversation=other),
        "knowledge_distillation": DistillationConfig(session=sizes, conversation=other, student=other),
        "generative_imputation": GenerativeConfig(ranking=sizes, texts=other, sessions=other),
        "relative_representation": RelativeConfig(anchors=3, ranking=sizes, session=other, conversation=sizes),
    }.get(system, sizes)


def _topics(folder: Path, rankers: dict[str, Ranker]) -> Catalogue:
    """The topics that are followed whole, and the catalogue in them."""
    items: list[dict[str, Any]] = [{"item_id": item, "name": item.title(), "repeatable": item == "item-1"} for item in ITEMS]
    items[3] |= {"text": "from a moment in the stream on", "offered_from": "2026-09-21T20:00:00Z"}
    items[4] |= {"offered_until": START_MS + 86_400_000}
    announcements = [_announcement(number, name, ranker) for number, (name, ranker) in enumerate(rankers.items())]
    replays = [(b"run", Replayed(START_MS, {"web-clicks": {"0": 7}})), (b"web-clicks/1/0/3", Replayed(START_MS + 1))]
    topics = Topics(
        items=[
            *((item["item_id"].encode(), json.dumps(item).encode()) for item in items),
            (b"withdrawn", b'{"item_id":"withdrawn","name":"W"}'),
            (b"withdrawn", None),
        ],
        models=[*((b"champion", encode_announcement(announcement)) for announcement in announcements), (b"challenger", None)],
        replays=[*((key, msgspec.json.encode(value)) for key, value in replays), (b"run", None)],
    )
    write(folder, "topics.msgpack", topics)
    return Catalogue(msgspec.json.decode(json.dumps(item), type=Item) for item in items)


def _announcement(number: int, name: str, ranker: Ranker) -> ModelAnnouncement:
    return ModelAnnouncement(
        role="champion",
        name=ranker.name,
        version=ranker.version,
        uri=f"{MODELS}/{name}",
        sha256=ranker.fingerprint,
        published_at=START_MS + number,
    )


def _encoded(sent: Sequence[Sent]) -> tuple[list[Transcripts], list[Sent]]:
    """The transcripts with what the encoder makes of them, and the batches as the step gets them."""
    transcripts, seen, offsets = [], [], [0] * PARTITIONS
    for batch in sent:
        if batch.source is not Source.CALL:
            seen.append(batch)
            continue
        encoded = encode_batch(Batch(*batch), TinyTextModel())  # type: ignore[arg-type]
        transcripts.append(
            Transcripts(
                epoch=batch.epoch,
                partition=batch.partition,
                records=batch.records,
                calls=encoded.calls,
                dead_letters=encoded.dead_letters,
            )
        )
        records = []
        for call, timestamp in zip(encoded.calls, encoded.timestamps, strict=True):
            records.append(PlainRecord(offsets[batch.partition], timestamp, call.key, call.value))
            offsets[batch.partition] += 1
        if records:
            seen.append(Sent(Source.CALL, "encoded-calls", 1, batch.partition, records))
    return transcripts, seen


def _run(
    sent: Sequence[Sent],
    models: Sequence[str | None],
    rankers: dict[str, Ranker],
    items: Catalogue,
    states: dict[bytes, bytes] | None = None,
    *,
    exact: bool,
    explain: bool = False,
) -> RecordedRun:
    states = states or {}
    store, steps = Store(dict(states)), []
    config = StepConfig(partitions=PARTITIONS, explain=explain)
    for number, (batch, model) in enumerate(zip(sent, models, strict=False)):
        notified = {batch.records[0].key or b""} if number % 5 == 4 else None
        outcome = step(Batch(*batch, notified), store, None if model is None else rankers[model], items, config)
        store.apply(outcome)
        steps.append(
            RecordedStep(
                source=batch.source,
                topic=batch.topic,
                epoch=batch.epoch,
                partition=batch.partition,
                notified=None if notified is None else sorted(notified),
                model=model,
                records=batch.records,
                writes=list(outcome.writes.items()),
                recommendations=outcome.recommendations,
                examples=outcome.examples,
                dead_letters=outcome.dead_letters,
            )
        )
    return RecordedRun(exact=exact, explain=explain, states=states, steps=steps)


def _states(steps: Sequence[RecordedStep]) -> dict[bytes, bytes]:
    states = {key: value for recorded in steps for key, value in recorded.writes}
    return {key: value for key, value in states.items() if value is not None}


def _with_keyword_lists(key: bytes, value: bytes) -> bytes:
    """A state record in the form of earlier versions, whose parts of conversations held their keywords as a list."""
    if key[:1] == b"h":
        head = decode_head(value)
        head.tail = list(_listed(head.tail))
        return encode_state(head)
    if key[:1] == b"f":
        facts = decode_facts(value)
        facts.interactions = list(_listed(facts.interactions))
        return encode_state(facts)
    return value


def _listed(interactions: Sequence[AnyInteraction]) -> Iterator[AnyInteraction]:
    for interaction in interactions:
        if isinstance(interaction, Conversation):
            parts = tuple(msgspec.structs.replace(part, keyword_text=part.keywords) for part in interaction.parts)
            yield msgspec.structs.replace(interaction, parts=parts)
        else:
            yield interaction


def _examples(folder: Path, popular: RecordedRun, rankers: dict[str, Ranker]) -> None:
    """The longest histories among the examples, once with keywords as lists, and what each model makes of them."""
    values = {output.key: output.value for recorded in popular.steps for output in recorded.examples}
    examples = [value for value in values.values() if value is not None]
    examples.sort(key=lambda value: (-len(decode_example(value).interactions), value))
    both = [value for value in examples if decode_example(value).type == "both"]
    examples = list(dict.fromkeys([*examples[:2], *both]))[:HISTORIES]
    histories = [decode_example(value).interactions for value in examples]
    recorded = []
    for name, ranker in rankers.items():
        scores = ranker.rank_many(ranker.encode_many(histories))
        if np.diff(np.sort(scores)[:, -4:]).min() < CLEAR:
            raise ValueError(f"{name} scores two items so alike that another processor may order them otherwise: take another seed")
        top = PostFilter(ranker.items, Catalogue(), 0).top(scores, [()] * len(histories), 3)
        lists = [[ranker.items[index] for index in row] for row in top]
        recorded.append(RecordedScores(model=name, scores=np.round(scores, 7).tolist(), lists=lists))
    write(folder, "scores.msgpack", recorded)
    older = decode_example(examples[-1])
    older = msgspec.structs.replace(older, interactions=tuple(_listed(older.interactions)))
    write(folder, "examples.msgpack", [*examples, msgspec.msgpack.encode(older)])


if __name__ == "__main__":
    main(sys.argv[1])

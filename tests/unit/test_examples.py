"""The programs of examples/ do what the documentation says of them."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from examples import own_ranker, print_lists, produce_events
from stream.core.events import Click, Item, Rejection, Source, Transcript
from stream.core.parsing import parse
from stream.core.ranking import Catalogue
from stream.services.process import step_config
from stream.settings import Settings, load
from tests.rankers import random_history

EXAMPLES = Path(produce_events.__file__).parent
SOURCES = {"web-clicks": Source.CLICK, "purchases": Source.PURCHASE}


def test_the_producer_sends_events_that_can_be_used() -> None:
    """To topics that exist, in our own format."""
    topics = set(Settings().topics.model_dump().values())
    for topic, event in produce_events.events("c-17", 1_790_000_000_000):
        assert topic in topics
        value = json.dumps(event).encode()
        parsed = msgspec.json.decode(value, type=Transcript) if topic not in SOURCES else parse(SOURCES[topic], value)
        assert not isinstance(parsed, Rejection)
    for item in produce_events.CATALOGUE:
        msgspec.convert(item, Item)


def test_the_settings_file_maps_a_producers_click(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page view in its comment becomes a click with our field names."""
    path = EXAMPLES / "isthmus.toml"
    monkeypatch.setenv("ISTHMUS_CONFIG", str(path))
    page_view = next(line[2:] for line in path.read_text().splitlines() if line.startswith('# {"uuid"'))
    settings = load()
    click = parse(Source.CLICK, page_view.encode(), step_config(settings).mappers[Source.CLICK])
    assert isinstance(click, Click)
    assert (click.user_id, click.tags, click.event_id) == ("c-17", ("pets", "dog", "view"), "e-5")


def test_the_consumer_prints_lists_and_tombstones(capsys: pytest.CaptureFixture[str]) -> None:
    """A list of the step's own, as a consumer receives it."""
    own_ranker.main()
    first, second = capsys.readouterr().out.splitlines()
    assert print_lists.line(b"c-17", first.encode()).startswith("c-17: 18 (0.")
    assert print_lists.line(b"c-18", second.encode()).startswith("c-18: 4 (0.")
    assert print_lists.line(b"c-17", None) == "c-17: forgotten"


def test_the_ranker_of_the_example_keeps_the_protocol() -> None:
    """Advancing one interaction at a time gives what encoding the whole history gives, and scores are in [0, 1]."""
    ranker = own_ranker.WordRanker(Catalogue([Item("a", "car price"), Item("b", "dog")]))
    histories = [random_history(np.random.default_rng(length), length, conversations=0) for length in (0, 1, 10)]
    rows = np.tile(ranker.initial(), (len(histories), 1))
    for row, history in enumerate(histories):
        for interaction in history:
            rows[row] = ranker.advance_many(rows[row : row + 1], [interaction])[0]
    assert np.array_equal(rows, ranker.encode_many(histories))
    scores = ranker.rank_many(rows)
    assert scores.shape == (3, 2)
    assert ((scores >= 0) & (scores <= 1)).all()

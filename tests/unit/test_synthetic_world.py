"""The synthetic world: calibrated, seeded, with a signal that models can find, and without the label in what they see."""

import gzip
import hashlib
import json
import time
from collections import Counter, defaultdict
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
import pytest

from stream.core.events import Item, Purchase, Rejection, Source, Transcript
from stream.core.limits import DAY_MS
from stream.core.parsing import parse
from stream.text.words import words
from tests import linear_reference as linear
from training.datasets.synthetic import NOTICE, benchmark_load
from training.datasets.synthetic.calls import write_call, write_short_call
from training.datasets.synthetic.catalogue import CATALOGUE
from training.datasets.synthetic.check import compare, read_events
from training.datasets.synthetic.live import LiveEvent, Pace, Rates, start_for, stream_events, wall_s, write_events
from training.datasets.synthetic.random_draws import RandomDraws
from training.datasets.synthetic.sessions import SHORT, all_tags, write_session
from training.datasets.synthetic.world import draw_lives, make_world
from training.datasets.synthetic.write_tables import ANSWERS, write_tables
from training.datasets.tables.reader import Tables, read_tables
from training.datasets.tables.to_events import user_events
from training.datasets.tables.writer import COLUMNS

START_MS = 1_700_000_000_000
SOURCES = {
    "clicks": Source.CLICK,
    "purchases": Source.PURCHASE,
    "eligibility": Source.ELIGIBILITY,
    "erasures": Source.ERASURE,
    "feedback": Source.FEEDBACK,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world with 4,000 purchase events."""
    out: Path = tmp_path_factory.mktemp("world")
    write_tables(out, 4_000, 3)
    return out


def stream(seconds: float = 20.0, seed: int = 5, **rates: object) -> list[LiveEvent]:
    rng = np.random.default_rng(seed)
    chosen = Rates(**rates)  # type: ignore[arg-type]
    until = START_MS + int(seconds * chosen.speed * 1000)
    return list(stream_events(make_world(rng), rng, START_MS, rates=chosen, until_ms=until))


def first_events(count: int) -> list[LiveEvent]:
    rng = np.random.default_rng(5)
    return list(islice(stream_events(make_world(rng), rng, START_MS), count))


def calls_in(events: list[LiveEvent]) -> list[Transcript]:
    return [msgspec.json.decode(event.value or b"", type=Transcript) for event in events if event.role == "transcripts"]


def digest(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def test_the_world_has_the_aggregates_of_the_papers_tables(folder: Path) -> None:
    """Every published aggregate within its stated tolerance, Popular's scores among them."""
    assert [(row.name, row.published, round(row.measured, 4)) for row in compare(read_events(folder)) if not row.fits] == []


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    """Nothing but the seed has an influence, not even the time of writing."""
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_tables(tmp_path / name, 300, seed)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert digest(tmp_path / "a") != digest(tmp_path / "c")


def test_plain_texts_share_no_word_with_the_tags_and_change_nothing_else(tmp_path: Path) -> None:
    """Names and texts alone are others, and tags and names of the world as it is do share words."""
    for name in ("named", "plain"):
        write_tables(tmp_path / name, 300, 3, plain_texts=name == "plain")
    named, plain = read_tables(tmp_path / "named"), read_tables(tmp_path / "plain")
    spoken = {word for tag in all_tags() for word in words(tag.replace("-", " "))}

    def shared(tables: Tables) -> set[str]:
        return spoken & {word for text in (*tables.items.values(), *tables.texts.values()) for word in words(text)}

    assert shared(plain) == set()
    assert "home" in shared(named)
    assert list(plain.texts) == list(plain.items)
    assert plain._replace(items=named.items, texts=named.texts) == named


def test_what_is_owned_decides_later_purchases_where_follow_ups_are_set() -> None:
    """Of later events, so many more contain the successor of an item owned. Without follow-ups a seed gives the world of before."""

    def successors_bought(follow_ups: float) -> float:
        world = make_world(np.random.default_rng(0), follow_ups)
        successors = make_world(np.random.default_rng(0), 0.5).successors
        found = []
        for life in draw_lives(world, RandomDraws(np.random.default_rng(1)), 6_000):
            owned: set[int] = set()
            for purchase in life.purchases:
                if owned:
                    found.append(bool({successors[item] for item in owned} & set(purchase.basket)))
                owned.update(purchase.basket)
        return float(np.mean(found))

    without, half = successors_bought(0), successors_bought(0.5)
    assert without < 0.2
    assert half > without + 0.3
    assert make_world(np.random.default_rng(0)) == make_world(np.random.default_rng(0), 0.0)
    assert not make_world(np.random.default_rng(0)).successors


def test_the_tables_load_and_have_the_layouts_columns(folder: Path) -> None:
    """The reader checks ids, numbers and filters; the events of the tables parse."""
    tables = read_tables(folder)
    assert len(tables.purchases) == 4_000
    assert list(tables.items) == [item.item_id for item in CATALOGUE]
    assert all(event.role in {*SOURCES, "transcripts"} for event in islice(user_events(tables), 5_000))
    for name, columns in COLUMNS.items():
        raw = (folder / name).read_bytes()
        text = gzip.decompress(raw) if name.endswith(".gz") else raw
        assert text.decode().splitlines()[0].split(",") == list(columns)


def test_the_output_is_labelled_synthetic(folder: Path, tmp_path: Path) -> None:
    """Both beside the tables and beside the events."""
    rng = np.random.default_rng(0)
    write_events(tmp_path, make_world(rng), rng, START_MS, 5)
    assert NOTICE in (folder / "README.md").read_text()
    assert NOTICE in (tmp_path / "README.md").read_text()


def test_a_linear_model_finds_what_was_planted(folder: Path) -> None:
    """It is far better than Popular; the order of interactions and clicks matters, and each modality adds to the other.

    The margins allow for a standard error of about .02 with 400 test events, and less for a comparison on the same events.
    """
    tables = linear.read(folder)
    border = len(tables.events) * 9 // 10
    rng = np.random.default_rng(0)

    def score(order: linear.Order, modalities: str = "SC", *, pairs: bool) -> dict[str, tuple[float, float, int]]:
        rows = [linear.features(tables, event, order=order, pairs=pairs, modalities=modalities, rng=rng) for event in tables.events]
        return linear.measure(tables, linear.fit_and_score(rows, tables.events, border), border)

    popular = linear.measure(tables, linear.popular(tables.events, border), border)["union"]
    full = score("kept", pairs=True)
    assert full["union"][0] > popular[0] + 0.25
    assert full["union"][1] > popular[1] + 0.3
    assert full["union"][1] > score("shuffled", pairs=True)["union"][1] + 0.03
    assert full["union"][1] > score("kept", pairs=False)["union"][1] + 0.02
    assert full["both"][1] > score("kept", "S", pairs=True)["both"][1] + 0.03
    assert full["both"][1] > score("kept", "C", pairs=True)["both"][1] + 0.03


def test_the_two_items_of_a_page_leave_the_same_tags() -> None:
    """Only the order of clicks distinguishes them."""
    draws = RandomDraws(np.random.default_rng(0))
    tags = [{tag for _ in range(400) for click in write_session(draws, item, frozenset()) for tag in click} for item in (18, 8)]
    assert {tag for tag in tags[0] if tag.startswith("home")} == {tag for tag in tags[1] if tag.startswith("home")}
    assert 100 <= len(all_tags()) <= 200


def test_the_sale_is_not_mentioned_before_it() -> None:
    """Neither the item's name nor "bought" is said before the sale; both are said after it."""
    draws = RandomDraws(np.random.default_rng(0))
    for number in range(2_000):
        item = CATALOGUE[number % 24]
        call = write_call(draws, item.number, (item.number,))
        before = " ".join(text for _, text in call.before)
        assert item.name.lower() not in before
        assert "have now bought" not in before
        assert item.name.lower() in " ".join(text for _, text in call.after)


def test_the_tables_do_not_hold_what_is_said_after_a_sale(folder: Path) -> None:
    """The answer key has its own folder; no table has a column of it."""
    text = gzip.decompress((folder / "data_conversations_text.csv.gz").read_bytes()).decode()
    assert "have now bought" not in text
    assert not [item.name for item in CATALOGUE if item.name.lower() in text]
    assert (folder / ANSWERS).parent.name == "answer-key"
    assert "item_in_mind" not in {column for columns in COLUMNS.values() for column in columns}


def test_what_is_said_after_a_sale_ends_after_the_purchase() -> None:
    """So no training example contains it: the step uses the parts that ended before the purchase."""
    events = stream(30, pace=Pace(late_purchases=0))
    bought: dict[str | None, list[int]] = defaultdict(list)
    for event in events:
        if event.role == "purchases":
            bought[event.key].append(event.event_ms)
    sales = [event for event in events if event.role == "transcripts" and b"have now bought" in (event.value or b"")]
    assert len(sales) > 50
    for sale in sales:
        call = msgspec.json.decode(sale.value or b"", type=Transcript)
        assert isinstance(call.started_at, int)
        assert isinstance(call.ended_at, int)
        assert any(call.started_at - 1_000 <= at < call.ended_at for at in bought[sale.key])


def test_every_live_event_parses_and_its_key_is_its_user() -> None:
    """All input topics occur; calls come in one piece or several, some purchases are late, some users ask for erasure."""
    events = stream(60)
    counts = Counter(event.role for event in events)
    assert all(counts[role] for role in ("items", "transcripts", *SOURCES))
    pieces = set()
    for event in events:
        if event.role == "items":
            assert msgspec.json.decode(event.value or b"", type=Item).item_id == event.key
        elif event.role == "transcripts":
            call = msgspec.json.decode(event.value or b"", type=Transcript)
            pieces.add(call.piece)
            assert call.user_id == event.key
        else:
            parsed = parse(SOURCES[event.role], event.value)
            assert not isinstance(parsed, Rejection)
            assert parsed.user_id == event.key
    assert pieces == {None, 1, 2}
    delays = [event.delivery_ms - event.event_ms for event in events if event.role == "purchases"]
    assert 0.08 < np.mean([delay > 10 * 60_000 for delay in delays]) < 0.2
    assert max(delays) < DAY_MS


def test_events_are_in_order_of_delivery_and_never_delivered_before_they_happen() -> None:
    events = stream()
    assert [event.delivery_ms for event in events] == sorted(event.delivery_ms for event in events)
    assert all(event.event_ms <= event.delivery_ms for event in events)
    assert events == stream()
    assert {event.key for event in events if event.role == "clicks"}.isdisjoint(e.key for e in stream(seed=6) if e.role == "clicks")


def test_event_time_reaches_now_after_the_given_duration() -> None:
    """So events of the demo are never ahead of the broker's clock."""
    now_ms, rates = 1_800_000_000_000, Rates()
    start = start_for(now_ms, 3_600, rates.speed)
    at_the_end = LiveEvent("clicks", "u", b"{}", now_ms, now_ms)
    assert wall_s(at_the_end, start, rates) == pytest.approx(3_600)


def test_two_thousand_purchases_arrive_within_forty_seconds_at_the_default_rates() -> None:
    """Calls stay below what one encoder can handle (about 400 sentences a second)."""
    events = stream(40)
    assert sum(event.role == "purchases" for event in events) >= 2_000
    assert sum(len(call.sentences) for call in calls_in(events)) / 40 < 200


def test_twenty_thousand_events_contain_fifteen_hundred_purchases_with_a_history() -> None:
    """So a demo soon has a model; at most one sentence per five events, so that one encoder can keep up."""
    events = first_events(20_000)
    seen: dict[str | None, int] = {}
    for event in events:
        if event.role in {"clicks", "transcripts"}:
            seen.setdefault(event.key, event.event_ms)
    assert sum(event.role == "purchases" and seen.get(event.key, event.event_ms) < event.event_ms for event in events) >= 1_500
    assert sum(len(call.sentences) for call in calls_in(events)) <= 0.2 * len(events)


def test_live_sessions_have_three_to_eight_clicks_and_live_calls_three_to_eight_sentences() -> None:
    """Whatever the user has in mind and buys. A call that ends in a sale names all items sold, and only after it."""
    draws = RandomDraws(np.random.default_rng(0))
    for number in range(3_000):
        focus = None if number % 25 == 24 else 1 + number % 25
        assert 3 <= len(write_session(draws, focus, frozenset(), SHORT)) <= 8
        sold = () if focus is None or number % 2 else (focus, 18)
        call = write_short_call(draws, focus, sold)
        assert 3 <= len((*call.before, *call.after)) <= 8
        for item in sold:
            name = CATALOGUE[item - 1].name.lower()
            assert name not in " ".join(text for _, text in call.before)
            assert name in " ".join(text for _, text in call.after)


def test_one_core_makes_ten_thousand_live_events_a_second() -> None:
    """The measured rate is ten times that: generating events must not be what a demo or a test waits for."""
    make_world(np.random.default_rng(0))  # baskets are fitted once
    began = time.process_time()
    first_events(20_000)
    assert time.process_time() - began < 2


def test_a_planted_event_is_broken_for_its_stated_reason() -> None:
    """One in so many events is planted; clicks without tags are among them."""
    events = stream(20, broken_every=1_000)
    planted = [event for event in events if event.planted]
    others = sum(not event.planted and event.role != "items" for event in events)
    assert len(planted) == others // 1_000 > 6
    for event in planted:
        if event.role == "transcripts":
            with pytest.raises(msgspec.ValidationError):
                msgspec.json.decode(event.value or b"", type=Transcript)
            continue
        parsed = parse(SOURCES[event.role], event.value)
        rejected = parsed.reason if isinstance(parsed, Rejection) else "key_mismatch" if event.key else "missing_key"
        assert rejected == event.planted


def test_events_written_as_json_lines_are_those_of_the_stream(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    counts = write_events(tmp_path, make_world(rng), rng, START_MS, 200)
    assert counts["purchases"] == 200
    for role, count in counts.items():
        assert len((tmp_path / f"{role}.jsonl").read_bytes().splitlines()) == count
    first = json.loads((tmp_path / "purchases.jsonl").read_text().splitlines()[0])
    assert msgspec.convert(first["value"], Purchase).user_id == first["key"]


def test_the_load_generators_clicks_parse() -> None:
    rng = np.random.default_rng(1)
    for key, value in islice(benchmark_load.clicks(make_world(rng), rng, users=50, start_ms=START_MS), 2_000):
        click = parse(Source.CLICK, value)
        assert not isinstance(click, Rejection)
        assert click.user_id.encode() == key

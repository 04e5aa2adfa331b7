"""The chaos suite's check can fail: a lost, a doubled and a wrongly answered event are each seen and counted."""

from collections import Counter
from dataclasses import replace

import msgspec
import pytest

from stream.core.events import Click, Feedback, Purchase, Source, UserEvent
from stream.core.records import Batch, PlainRecord
from stream.core.step import StepConfig, step
from tests import world
from tests.chaos.api_lists import Writer, Written
from tests.chaos.check import Observed, Verdict, judge, letter_key, uncommitted
from tests.world import MINUTE, NOW, Store, batch_of, call

RANKER = world.OrderRanker()
SETTINGS = StepConfig(partitions=1)
USERS = ("ann", "bob")


def events_of(user: str) -> list[tuple[Source, UserEvent]]:
    clicks = [
        (Source.CLICK, Click(user, NOW - (9 - number) * 40 * MINUTE, (f"tag{number}",), event_id=f"{user}{number}"))
        for number in range(6)
    ]
    return [*clicks, (Source.PURCHASE, Purchase(user, NOW - MINUTE, ("item-1",), event_id=f"{user}-p"))]


def batches() -> list[Batch]:
    """A batch per topic: clicks, purchases, and one call each."""
    made: dict[Source, list[tuple[int, UserEvent]]] = {Source.CLICK: [], Source.PURCHASE: [], Source.CALL: []}
    for number, user in enumerate(USERS):
        for source, event in events_of(user):
            made[source].append((len(made[source]), event))
        made[Source.CALL].append((number, call("c", NOW - 50 * MINUTE, NOW - 45 * MINUTE, user=user, offset=number)))
    return [batch_of(source, events) for source, events in made.items() if events]


def transcripts() -> Batch:
    records = [PlainRecord(number, NOW, user.encode(), b"{}") for number, user in enumerate(USERS)]
    return Batch(Source.CALL, "call-transcripts", 1, 0, records)


def observed(applied: list[Batch], **changes: object) -> Observed:
    """What a worker leaves behind after applying these batches, and the content of the topics."""
    store, sent = Store(), []
    for batch in applied:
        for record in batch.records:
            outcome = step(batch._replace(records=[record]), store, RANKER, world.catalogue(), SETTINGS)
            store.apply(outcome)
            sent += [(output.key, output.value) for output in outcome.recommendations]
    seen = Observed(
        batches=batches(),
        transcripts=[transcripts()],
        acknowledged={},
        catalogue=world.catalogue(),
        changelog=store.records,
        recommendations=sent,
        examples={key: value for key, value in store.examples.items() if value is not None},
        dead_letters=frozenset(),
        uncommitted=0,
    )
    return replace(seen, **changes)  # type: ignore[arg-type]


def verdict(applied: list[Batch], **changes: object) -> Verdict:
    return judge(observed(applied, **changes), RANKER, SETTINGS)


def without(batch: Batch, place: int) -> Batch:
    return batch._replace(records=[record for number, record in enumerate(batch.records) if number != place])


def test_lost_and_doubled_feedback_is_seen() -> None:
    """Also of a user of whom nothing else is known."""
    shown = Feedback("eve", NOW, "web", "shown", ("item-1", "item-2"), "f")
    once, twice = (
        batch_of(Source.FEEDBACK, [(n, msgspec.structs.replace(shown, event_id=f"f{n}")) for n in range(m)]) for m in (1, 2)
    )
    inputs = [*batches(), once]
    assert verdict(inputs, batches=inputs).is_exact
    lost = verdict(batches(), batches=inputs)
    assert (lost.lost, lost.wrong_history) == (2, 1)
    doubled = verdict([*batches(), twice], batches=inputs)
    assert (doubled.applied_twice, doubled.wrong_history) == (2, 1)


def test_a_run_in_another_order_is_exact() -> None:
    """Calls first, then purchases, then clicks: the history is a function of the set."""
    found = verdict(batches()[::-1])
    assert found.is_exact
    assert found.events == 16


@pytest.mark.parametrize("place", range(12))
def test_a_lost_click_is_counted_and_so_is_what_follows_from_it(place: int) -> None:
    """Whichever it was: one lost fact, another history, another last list or example."""
    clicks, *others = batches()
    found = verdict([without(clicks, place), *others])
    assert (found.lost, found.applied_twice, found.wrong_history) == (1, 0, 1)
    assert found.wrong_last + found.wrong_examples > 0
    assert not found.is_exact


@pytest.mark.parametrize("number", [1, 2])
def test_a_lost_purchase_and_a_lost_call_are_counted(number: int) -> None:
    """Each is a fact of the history."""
    all_batches = batches()
    all_batches[number] = without(all_batches[number], 0)
    assert verdict(all_batches).lost == 1


def test_a_click_applied_twice_is_counted() -> None:
    """The same event under a further offset and another id: what a state without applied offsets would hold."""
    clicks, *others = batches()
    click = msgspec.json.decode(clicks.records[3].value or b"", type=Click)
    twice = PlainRecord(99, NOW, b"ann", world.encode(msgspec.structs.replace(click, event_id="again")))
    found = verdict([clicks._replace(records=[*clicks.records, twice]), *others])
    assert (found.lost, found.applied_twice) == (0, 1)
    assert not found.is_exact


def changed_last(**changes: object) -> list[tuple[bytes | None, bytes | None]]:
    """The records sent, the last list of the last user changed."""
    sent = list(observed(batches()).recommendations)
    key, value = sent[-1]
    sent[-1] = (key, msgspec.json.encode({**msgspec.json.decode(value or b""), **changes}))
    return sent


def test_a_last_list_with_other_items_scores_or_model_version_is_counted() -> None:
    """One user each."""
    last = msgspec.json.decode(observed(batches()).recommendations[-1][1] or b"")
    shifted = [{**item, "score": item["score"] + 0.002} for item in last["items"]]
    close = [{**item, "score": item["score"] + 0.0005} for item in last["items"]]
    assert verdict(batches(), recommendations=changed_last(items=last["items"][::-1])).wrong_last == 1
    assert verdict(batches(), recommendations=changed_last(items=shifted)).wrong_last == 1
    assert verdict(batches(), recommendations=changed_last(model={**last["model"], "version": "0"})).wrong_last == 1
    assert verdict(batches(), recommendations=changed_last(items=close)).wrong_last == 0


def test_duplicates_and_ids_with_two_contents_are_told_apart() -> None:
    """A list sent twice is counted and allowed; another content under its id is not."""
    sent = list(observed(batches()).recommendations)
    again = verdict(batches(), recommendations=[*sent, sent[-1]])
    assert (again.duplicates_sent, again.two_contents, again.is_exact) == (1, 0, True)
    other = verdict(batches(), recommendations=[*sent, changed_last(schema_version=2)[-1]])
    assert (other.two_contents, other.is_exact) == (1, False)


def test_unencoded_calls_undelivered_events_and_dead_letters_are_counted() -> None:
    """A transcript nobody encoded; an acknowledged event that is not there; a stray letter; a planted event without one."""
    assert judge(replace(observed(batches()), transcripts=[transcripts()._replace(epoch=2)]), RANKER, SETTINGS).lost == 2
    assert verdict(batches(), acknowledged={("web-clicks", 0, 77): (b"ann", b"{}")}).lost == 1
    assert verdict(batches(), dead_letters=frozenset([b"web-clicks/1/0/3"])).stray_dead_letters == 1
    broken = PlainRecord(2, NOW, b"broken-6", b"{")
    planted = transcripts()._replace(records=[*transcripts().records, broken])
    assert judge(replace(observed(batches()), transcripts=[planted]), RANKER, SETTINGS).lost == 1
    letters = frozenset([letter_key(planted.coordinates(broken), broken)])
    assert judge(replace(observed(batches()), transcripts=[planted], dead_letters=letters), RANKER, SETTINGS).is_exact


def test_what_is_not_committed_is_not_exact() -> None:
    """Though all is applied. A transaction's marker behind the last record need not be."""
    assert not verdict(batches(), uncommitted=1).is_exact
    (clicks,) = (batch for batch in batches() if batch.topic == "web-clicks")
    place, end = (clicks.topic, clicks.partition), clicks.records[-1].offset + 1
    assert uncommitted([clicks], {place: end}, {place: end + 1}) == 0
    assert uncommitted([clicks], {place: end - 1}, {place: end + 1}) == 1
    assert uncommitted([clicks], {}, {place: end}) == len(clicks.records)
    assert uncommitted([clicks], {place: end + 2}, {place: end}) == 2


def test_the_facts_of_a_user_are_counted_one_by_one() -> None:
    """Six clicks, a purchase and a part of a call."""
    from tests.chaos.check import facts_of, found_in

    assert facts_of(found_in(observed(batches())), "ann").total() == 8
    assert facts_of(Store(), "nobody") == Counter()


def test_a_changelog_is_observed_as_a_recovery_reads_it() -> None:
    """A record of a lower term than one before it was written late: it does not count, and is counted."""
    from stream.kafka.faust.changelog import term_headers
    from tests.chaos.observe import restored

    written = ((1, b"a", b"old"), (2, b"a", b"new"), (1, b"a", b"late"), (2, b"b", b"gone"), (2, b"b", None))
    records = [PlainRecord(offset, NOW, key, value, term_headers(term)) for offset, (term, key, value) in enumerate(written)]
    assert restored({0: records}) == ({b"a": b"new"}, 1)


def test_an_answer_of_the_api_must_hold_what_was_acknowledged_by_its_time() -> None:
    """A newer list is true too; none is true only if the user was erased since, or had none yet."""
    writer = Writer("nowhere:9092", "recommendations", rate=1, seed=1)
    writer._written["user-001"] = [Written(1, True, 10.0), Written(2, True, 20.0), Written(3, True, 30.0)]
    assert [writer.is_true("user-001", f"user-001-{version}", before=25) for version in (1, 2, 3)] == [False, True, True]
    assert [writer.is_true("user-001", None, before) for before in (5, 25)] == [True, False]
    writer._written["user-001"].append(Written(4, False, None))
    assert writer.is_true("user-001", None, before=35)
    assert not writer.is_true("user-001", "user-001-2", before=35)

"""Erasure to the last byte: what a lost state had sent goes too, and an erasure that erases nothing is counted."""

import msgspec
import pytest

from stream.core import limits, state
from stream.core.events import Click, Eligibility, Erasure, Purchase, Source, UserEvent
from stream.core.outputs import decode_example, example_key
from stream.core.records import Batch, PlainRecord
from stream.core.state import Facts, Head
from tests import world
from tests.world import MINUTE, NOW, OrderRanker, Store, batch_of, run

BEGIN = NOW - 200 * MINUTE
KEY = example_key("u", "p")


def at(minute: int) -> int:
    return BEGIN + minute * MINUTE


def click(minute: int, *tags: str) -> tuple[Source, UserEvent]:
    return Source.CLICK, Click("u", at(minute), tags or ("home",), session_id=f"s{minute}")


def bought(minute: int, purchase_id: str = "p") -> tuple[Source, UserEvent]:
    return Source.PURCHASE, Purchase("u", at(minute), ("item-1",), purchase_id)


def erasure(minute: int) -> tuple[Source, UserEvent]:
    return Source.ERASURE, Erasure("u", at(minute))


class Worker:
    """Applies events one by one; `lost` ones send their outputs, and their states are lost."""

    def __init__(self) -> None:
        self.store = Store()
        self._offsets = dict.fromkeys(Source, -1)

    def apply(self, *deliveries: tuple[Source, UserEvent]) -> "Worker":
        for source, event in deliveries:
            self._offsets[source] += 1
            run(self.store, batch_of(source, [(self._offsets[source], event)]), OrderRanker())
        return self

    def lose(self, *deliveries: tuple[Source, UserEvent]) -> "Worker":
        records, offsets = dict(self.store.records), dict(self._offsets)
        self.apply(*deliveries)
        self.store.records, self._offsets = records, offsets
        return self

    def tags(self) -> set[str] | None:
        """The tags in the newest example; None if it was erased."""
        value = self.store.examples[KEY]
        interactions = () if value is None else decode_example(value).interactions
        return None if value is None else {tag for session in interactions for tag in session.tags}  # type: ignore[union-attr]


def test_an_erasure_reaches_the_example_that_a_lost_state_sent_of_a_kept_purchase() -> None:
    """The state knows the purchase and no example of it."""
    worker = Worker().apply(bought(100)).lose(click(10, "secret"))
    assert worker.tags() == {"secret"}
    assert worker.apply(erasure(120), click(10, "secret")).tags() is None


def test_an_erasure_reaches_the_example_that_a_lost_state_sent_of_an_evicted_purchase() -> None:
    """Eight later purchases have displaced it, so that the late click can no longer bring its example back."""
    worker = Worker().apply(bought(100)).lose(click(10, "secret"))
    later = [bought(101 + number, f"later-{number}") for number in range(limits.PURCHASES)]
    assert worker.apply(*later, erasure(120), click(10, "secret")).tags() is None


@pytest.mark.parametrize("purchase_minute", [50, 100])
def test_after_all_states_were_lost_no_example_of_the_erased_user_stays(purchase_minute: int) -> None:
    """The erasure is read before the purchase, which it covers or not; nothing else precedes the purchase."""
    worker = Worker().lose(click(10, "secret"), bought(purchase_minute))
    assert worker.tags() == {"secret"}
    assert worker.apply(erasure(60), bought(purchase_minute), click(10, "secret")).tags() is None


def test_an_erasure_sends_the_remaining_examples_again_whatever_was_sent_last() -> None:
    """Their fingerprint in the state looks unchanged, but a lost state sent one with the erased click."""
    worker = Worker().apply(click(90, "kept"), bought(100)).lose(click(10, "secret"))
    assert worker.tags() == {"kept", "secret"}
    assert worker.apply(erasure(60), click(10, "secret")).tags() == {"kept"}


@pytest.mark.parametrize("again", [60, 30])
def test_an_erasure_that_covers_nothing_more_sends_the_remaining_examples_again(again: int) -> None:
    """`isthmus erase`, run again after an error, has removed them from the topic once more."""
    worker = Worker().apply(click(90, "kept"), bought(100), erasure(60))
    worker.store.examples[KEY] = None
    assert worker.apply(erasure(again)).tags() == {"kept"}


def test_an_erasure_that_covers_nothing_more_leaves_examples_that_the_state_no_longer_keeps_in_full() -> None:
    """As in a re-export of the topic: the example is right, and what the state keeps of it is not."""
    after = [(Source.CLICK, Click("u", at(101) + number, ("later",), session_id="s90")) for number in range(limits.CLICKS + 1)]
    worker = Worker().apply(click(90, "kept"), erasure(60), bought(100), *after, erasure(60))
    assert worker.tags() == {"kept"}


def test_an_erasure_erases_the_example_that_it_leaves_without_interactions() -> None:
    """Also where the state never sent it."""
    assert Worker().apply(bought(100)).lose(click(10, "secret")).apply(erasure(60)).tags() is None
    assert Worker().apply(click(10, "secret"), bought(100), erasure(60)).tags() is None


def test_an_erasure_sends_no_tombstones_of_cancellations() -> None:
    """They have no example, and their id may be that of a purchase that stays."""
    cancelled = Purchase("u", at(50), ("item-1",), "p", "cancelled")
    worker = Worker().apply(click(90, "kept"), bought(100), (Source.PURCHASE, cancelled), erasure(60))
    assert worker.tags() == {"kept"}
    assert worker.apply((Source.PURCHASE, cancelled), (Source.PURCHASE, Purchase("u", at(40), ("item-2",), "p"))).tags() == {"kept"}


def test_a_possible_redelivery_sends_examples_again_that_look_unchanged() -> None:
    """Another order of the topics after a crash: what a dead worker sent must not stay the last record of its key."""
    excluded = (Source.ELIGIBILITY, Eligibility("u", at(5), ("item-2",)))
    worker = Worker().apply(click(90), bought(100)).lose(excluded)
    late = Click("u", at(95), ("home",), session_id="s90")
    outcome = run(worker.store, batch_of(Source.CLICK, [(5, late)])._replace(notified_users=set()), OrderRanker())
    assert outcome.counts["examples", "revision"] == 1
    purchase = Purchase("u", at(80), ("item-9",), "other", "cancelled")
    again = run(worker.store, batch_of(Source.PURCHASE, [(5, purchase)])._replace(notified_users=set()), OrderRanker())
    assert again.counts["examples", "resent"] == 1
    assert decode_example(worker.store.examples[KEY] or b"").excluded == ()
    quiet = run(worker.store, batch_of(Source.PURCHASE, [(6, msgspec.structs.replace(purchase, event_id="x"))]), OrderRanker())
    assert not quiet.examples


def test_a_covered_purchase_leaves_the_example_of_a_later_one_of_its_order() -> None:
    """Also where the later one has left the state: the record of the covered one may come after eight other purchases."""
    others = [bought(100 + number, f"other-{number}") for number in range(limits.PURCHASES)]
    worker = Worker().apply(erasure(60), click(80), bought(90), *others)
    kept = worker.store.examples[KEY]
    worker.apply(bought(50))
    assert kept is not None
    assert worker.store.examples[KEY] == kept
    worker.apply(erasure(95))
    assert worker.store.examples[KEY] is None


@pytest.mark.parametrize(
    ("before", "count"),
    [
        ([click(90)], 1),
        ([bought(90)], 1),
        ([(Source.ELIGIBILITY, Eligibility("u", at(90), ("item-1",)))], 1),
        ([(Source.CALL, world.call("c", at(90), at(95)))], 1),
        ([click(90), click(50)], 0),
        ([(Source.CALL, world.call("c", at(50), at(95)))], 0),
        ([bought(50)], 0),
        ([], 0),
    ],
)
def test_an_erasure_that_covers_nothing_of_a_known_user_is_counted(before: list[tuple[Source, UserEvent]], count: int) -> None:
    """A producer's clock or unit may be wrong; of an unknown user there is nothing to expect."""
    worker = Worker().apply(*before)
    outcome = run(worker.store, batch_of(Source.ERASURE, [(0, erasure(60)[1])]))
    assert outcome.counts["erasures_without_effect",] == count


def test_an_erasure_without_a_time_forgets_up_to_its_kafka_timestamp() -> None:
    """Whatever was later stays."""
    worker = Worker().apply(click(50, "secret"), click(90, "kept"), bought(100))
    record = PlainRecord(0, at(60), b"u", b'{"user_id": "u"}')
    outcome = run(worker.store, Batch(Source.ERASURE, "erasures", 1, 0, [record]))
    assert outcome.counts["events", Source.ERASURE, "applied"] == 1
    assert worker.tags() == {"kept"}
    assert len(world.history_of(worker.store)) == 1 + 4


def test_every_field_of_a_state_counts_as_history_unless_it_is_listed_as_bookkeeping() -> None:
    """An erased user with such a field is kept: a field that somebody adds later cannot be lost with an erasure."""
    bookkeeping = {name for name in state._NOT_HISTORY if name in (*Head.__struct_fields__, *Facts.__struct_fields__)}
    assert bookkeeping == state._NOT_HISTORY
    for blank in (Head(), Facts()):
        for name in blank.__struct_fields__:
            filled = msgspec.structs.replace(blank, **{name: "something"})
            head, facts = (filled, Facts()) if isinstance(filled, Head) else (Head(), filled)
            assert state.holds_history(head, facts) is (name not in bookkeeping), name

"""What training examples say of what a user owned and was not eligible for, just before the purchase."""

import msgspec
import pytest
from msgspec import UNSET

from stream.core.events import Click, Eligibility, Erasure, Item, Purchase, Source, UserEvent
from stream.core.examples import former_fingerprint
from stream.core.outputs import TrainingExample, decode_example, encode_example, example_key
from stream.core.ranking import Catalogue
from stream.core.state import decode_facts, encode_state, facts_key
from tests import world
from tests.world import MINUTE, NOW, Store, batch_of, catalogue, deliver, run

BEGIN = NOW - 200 * MINUTE
KEY = example_key("u", "p")
Event = tuple[Source, UserEvent]


def at(minute: int) -> int:
    return BEGIN + minute * MINUTE


def click(minute: int) -> Event:
    return Source.CLICK, Click("u", at(minute), ("home",))


def bought(minute: int, *items: str, name: str = "p", action: str = "bought") -> Event:
    return Source.PURCHASE, Purchase("u", at(minute), items, name, action)  # type: ignore[arg-type]


def excluding(minute: int, *items: str) -> Event:
    return Source.ELIGIBILITY, Eligibility("u", at(minute), items)


def example_after(*events: Event, items: Catalogue | None = None) -> TrainingExample:
    store = Store()
    deliver(store, events, items=items)
    return decode_example(store.examples[KEY] or b"")


def test_owned_holds_repeatable_items_too_and_the_post_filter_does_not() -> None:
    """What the user may buy again is no exclusion, but it says much of what comes next."""
    events = [click(10), bought(20, "item-0", "item-1", name="former"), bought(90, "item-2")]
    example = example_after(*events, items=catalogue(item_0=True))
    assert example.owned == ("item-0", "item-1")
    assert example.excluded == ("item-1",)
    assert example.ineligible == ()


def test_owned_is_as_of_the_purchase() -> None:
    """Without the purchase itself, what was cancelled before it, and what was bought later; with what was cancelled later."""
    former = [bought(20, "item-0", "item-1", "item-2", name="former"), bought(30, "item-1", name="former", action="cancelled")]
    later = [bought(120, "item-4", name="later"), bought(130, "item-2", name="former", action="cancelled")]
    for events in ([*former, *later], [*later, *former]):
        assert example_after(click(10), bought(90, "item-3"), *events).owned == ("item-0", "item-2")


def test_ineligible_is_apart_from_what_is_owned_and_what_is_withdrawn() -> None:
    """`excluded` holds all three. Only the newest list before the purchase counts."""
    withdrawn = Catalogue([*catalogue().items.values(), Item("item-9", "item-9", offered_until=at(0))])
    lists = [excluding(20, "item-5"), excluding(40, "item-3", "item-2"), excluding(100, "item-1")]
    example = example_after(click(10), *lists, bought(50, "item-0", name="former"), bought(90, "item-4"), items=withdrawn)
    assert example.ineligible == ("item-2", "item-3")
    assert example.owned == ("item-0",)
    assert example.excluded == ("item-0", "item-2", "item-3", "item-9")


def test_a_late_purchase_of_a_repeatable_item_revises_the_example() -> None:
    """The post filter is the same before and after it."""
    store = Store()
    deliver(store, [click(10), bought(90, "item-3")], items=catalogue(item_0=True))
    counts = run(
        store, batch_of(Source.PURCHASE, [(5, bought(20, "item-0", name="former")[1])]), items=catalogue(item_0=True)
    ).counts
    assert counts["examples", "revision"] == 1
    assert decode_example(store.examples[KEY] or b"").owned == ("item-0",)


def without_ownership(example: TrainingExample) -> TrainingExample:
    """As 0.1.0 wrote it."""
    return msgspec.structs.replace(example, owned=UNSET, ineligible=UNSET)


def test_an_example_of_0_1_0_says_that_nothing_is_known() -> None:
    """Not that the user owned nothing. Written again, it has the same bytes."""
    new = example_after(click(10), bought(90, "item-3"))
    assert new.owned == new.ineligible == ()
    stored = encode_example(without_ownership(new))
    assert b"owned" not in stored
    assert decode_example(stored).owned is UNSET
    assert encode_example(decode_example(stored)) == stored


@pytest.fixture
def upgraded() -> Store:
    """A state of 0.1.0: the hash that it keeps of the example is that of the former form, which the topic holds."""
    store = Store()
    deliver(store, [(Source.ERASURE, Erasure("u", at(5))), click(10), bought(20, "item-0", name="former"), bought(90, "item-3")])
    facts = decode_facts(store.records[facts_key(b"u")])
    for index, kept in enumerate(facts.purchases):
        former = without_ownership(decode_example(store.examples[example_key("u", kept.purchase_id)] or b""))
        store.examples[example_key("u", kept.purchase_id)] = encode_example(former)
        facts.purchases[index] = msgspec.structs.replace(kept, example=former_fingerprint(former))
    store.records[facts_key(b"u")] = encode_state(facts)
    return store


def test_an_upgrade_sends_no_example_anew_until_it_changes(upgraded: Store) -> None:
    """A late event that changes nothing of it leaves the one in the topic; one that does sends the new form."""
    unrelated = Purchase("u", at(15), ("item-9",), "other", "cancelled")
    assert not run(upgraded, batch_of(Source.PURCHASE, [(7, unrelated)])).examples
    run(upgraded, batch_of(Source.ELIGIBILITY, [(7, excluding(30, "item-5")[1])]))
    example = decode_example(upgraded.examples[KEY] or b"")
    assert (example.owned, example.ineligible, example.revision) == (("item-0",), ("item-5",), 2)


def test_an_erasure_that_covers_nothing_restores_the_examples_that_an_earlier_version_sent(upgraded: Store) -> None:
    """`isthmus erase` has removed them from the topic."""
    upgraded.examples = dict.fromkeys(upgraded.examples)
    run(upgraded, batch_of(Source.ERASURE, [(7, Erasure("u", at(1)))]))
    restored = decode_example(upgraded.examples[KEY] or b"")
    assert restored.owned == ("item-0",)
    assert len(upgraded.newest_examples()) == 2


def test_a_possible_redelivery_sends_them_in_the_new_form(upgraded: Store) -> None:
    """As it sends every example that looks unchanged."""
    unrelated = Purchase("u", at(15), ("item-9",), "other", "cancelled")
    outcome = run(upgraded, batch_of(Source.PURCHASE, [(7, unrelated)])._replace(notified_users=set()))
    assert outcome.counts["examples", "resent"] == 2
    assert decode_example(upgraded.examples[KEY] or b"").owned == ("item-0",)
    assert world.history_of(upgraded)

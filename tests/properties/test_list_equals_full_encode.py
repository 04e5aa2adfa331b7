"""The list is what `encode_many` of the last 10 interactions gives, whatever was cached and whenever a model was swapped."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core import limits
from stream.core.events import Click, Source, UserEvent
from stream.core.interactions import Interaction
from stream.core.ranking import PostFilter
from stream.core.state import Facts, decode_facts, decode_head, facts_key, head_key
from tests import world

TAGS = ("home", "car", "price", "claim", "dog", "travel")


def full_history(store: world.Store) -> list[Interaction]:
    head, facts = store.get_many([head_key(b"u"), facts_key(b"u")])
    assert head is not None
    return [*(Facts() if facts is None else decode_facts(facts)).interactions, *decode_head(head).tail]


def full_list(store: world.Store, ranker: world.OrderRanker) -> tuple[str, ...]:
    rows = ranker.encode_many([full_history(store)[-limits.WINDOW :]])
    top = PostFilter(ranker.items, world.catalogue(), world.NOW).top(ranker.rank_many(rows), [()], 5)[0]
    return tuple(ranker.items[position] for position in top)


def random_event(rng: np.random.Generator, now: int, number: int) -> tuple[Source, UserEvent]:
    if rng.random() < 0.3:
        name = f"c{number - int(rng.integers(2))}"
        return Source.CALL, world.call(name, now - world.MINUTE, now, int(rng.integers(99)), offset=number)
    late = int(rng.integers(300)) * world.MINUTE if rng.random() < 0.1 else 0
    tags = tuple(rng.choice(TAGS, size=int(rng.integers(1, 4)), replace=False).tolist())
    return Source.CLICK, Click("u", now - late, tags)


@settings(max_examples=8)
@given(st.integers(0, 2**32))
def test_two_hundred_interactions_with_swaps_at_random(seed: int) -> None:
    """After each event, the last list sent is the one that the present model gives for the whole window."""
    rng = np.random.default_rng(seed)
    rankers = [world.OrderRanker(version=str(number), seed=number) for number in range(3)]
    ranker = rankers[0]
    store = world.Store()
    now = world.NOW - 10 * limits.DAY_MS
    for number in range(400):
        now += int(rng.choice([1, 5, 45])) * world.MINUTE
        if rng.random() < 0.05:
            ranker = rankers[rng.integers(3)]
        source, event = random_event(rng, now, number)
        world.run(store, world.batch_of(source, [(number, event)]), ranker)
        assert store.last_list() == full_list(store, ranker), number
    assert limits.WINDOW < len(full_history(store)) <= limits.INTERACTIONS  # one less for each pair of sessions joined later

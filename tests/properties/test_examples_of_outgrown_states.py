"""Sessions, calls and eligibility lists that outgrow the state: an example in the topic is right, or as it was.

An independent computation from the whole set of events says after each one what is right.
"""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core.events import Source
from stream.core.interactions import Session
from stream.core.outputs import TrainingExample
from tests import world
from tests.properties.naive_history import expected_examples
from tests.properties.random_events import Events, outgrowing_events
from tests.properties.test_history_is_a_function_of_the_set import interleaved


@settings(max_examples=150)
@given(st.integers(0, 2**32))
def test_each_event_makes_examples_right_or_leaves_them_as_they_are(seed: int) -> None:
    """Whatever has left the state. Only a record of the purchase itself may emit an example that shows a part of what is right."""
    rng = np.random.default_rng(seed)
    events = outgrowing_events(rng)
    store = world.Store()
    so_far: Events = {source: [] for source in events}
    for source, event in interleaved(events, rng):
        before = store.newest_examples()
        world.run(store, world.batch_of(source, [(len(so_far[source]), event)]))
        so_far[source].append(event)
        now = store.newest_examples()
        wanted = {} if now == before else expected_examples(so_far)
        for key in before.keys() | now.keys():
            if now.get(key) not in (before.get(key), wanted.get(key)):
                assert source is Source.PURCHASE
                assert_shows_a_part(now[key], wanted[key])


def assert_shows_a_part(example: TrainingExample, whole: TrainingExample) -> None:
    """All that was bought, and something of each interaction."""
    assert (example.occurred_at, example.items, example.type) == (whole.occurred_at, whole.items, whole.type)
    assert len(example.interactions) == len(whole.interactions)
    clicks, all_clicks = (
        {click for session in one.interactions if isinstance(session, Session) for click in session.clicks()}
        for one in (example, whole)
    )
    assert clicks <= all_clicks

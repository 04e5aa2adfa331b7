"""Clicks as tokens: reading a batch at once gives what looking at each session's clicks gives."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from models.features import TOKENS, fit_featurizer
from models.popular import prior_of
from stream.core.interactions import Interaction, Part, Session, conversation_of, session_of
from stream.core.tokens import join_tokens
from tests.purchases import ITEMS
from tests.rankers import TEXT_WIDTH, random_ranker

CALL = conversation_of([Part(1, 1, 1, np.ones(TEXT_WIDTH, dtype="<f2").tobytes(), join_tokens(["home"]), "text-1")], "c")

tags = st.lists(st.sampled_from(["home", "car", "price", "open", "terms"]), min_size=1, max_size=4)
sessions = st.lists(tags, min_size=1, max_size=70).map(
    lambda clicks: session_of([(at, tuple(found)) for at, found in enumerate(clicks)])
)
histories = st.lists(st.one_of(sessions, st.just(CALL)), max_size=6)


@settings(deadline=None)
@given(learned=histories, read=histories)
def test_a_batch_is_read_as_each_session_by_itself(learned: list[Interaction], read: list[Interaction]) -> None:
    """Clicks and steps of the vocabulary, each once, in whatever number and company the sessions come."""
    reader = fit_featurizer(("tags", "clicks"), texts=False, interactions=learned)
    places, starts = reader.featurize(read).bags["clicks"]
    known = reader.vocabularies["clicks"].tokens
    tags_known = set(reader.vocabularies["tags"].tokens)
    for row, one in enumerate(read):
        found = {known[place] for place in places[starts[row] : starts[row + 1]]}
        assert len(found) == starts[row + 1] - starts[row]
        if isinstance(one, Session) and set(one.tags) <= tags_known:
            assert found == set(TOKENS["clicks"](one)) & set(known)


def test_sessions_of_the_same_tags_differ_by_what_came_together_and_what_followed() -> None:
    """Neither is seen by a model of sessions as sets of tags."""
    ranker = random_ranker("isthmus", ITEMS, prior_of([["item-0"]], ITEMS))
    together = session_of([(1, ("car", "price"))])
    car_first, price_first = (session_of([(1, (one,)), (2, (other,))]) for one, other in (("car", "price"), ("price", "car")))
    scores = ranker.rank_many(ranker.encode_many([[together], [car_first], [price_first]]))
    assert not np.allclose(scores[0], scores[1])
    assert not np.allclose(scores[1], scores[2])


def test_a_session_without_one_known_tag_is_read() -> None:
    """Also the last of a batch, and one whose clicks hold no tag that is kept."""
    ranker = random_ranker("isthmus", ITEMS, prior_of([["item-0"]], ITEMS))
    crowded = session_of([(at, tuple(f"tag-{at}-{place}" for place in range(16))) for at in range(30)])
    assert np.isfinite(ranker.rank_many(ranker.encode_many([[session_of([(1, ("never",))])], [crowded]]))).all()

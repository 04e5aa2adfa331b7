"""Clicks as tokens: a batch tokenized at once equals its sessions tokenized one by one."""

import numpy as np
from hypothesis import given
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
    lambda clicks: session_of([(at, tuple(click)) for at, click in enumerate(clicks)])
)
histories = st.lists(st.one_of(sessions, st.just(CALL)), max_size=6)


@given(learned=histories, read=histories)
def test_a_batch_is_tokenized_like_each_session_by_itself(learned: list[Interaction], read: list[Interaction]) -> None:
    """Each click and step of the vocabulary occurs once per session, whatever other sessions are in the batch."""
    featurizer = fit_featurizer(("tags", "clicks"), texts=False, interactions=learned)
    indices, starts = featurizer.featurize(read).bags["clicks"]
    known = featurizer.vocabularies["clicks"].tokens
    tags_known = set(featurizer.vocabularies["tags"].tokens)
    for row, one in enumerate(read):
        tokens = {known[index] for index in indices[starts[row] : starts[row + 1]]}
        assert len(tokens) == starts[row + 1] - starts[row]
        if isinstance(one, Session) and set(one.tags) <= tags_known:
            assert tokens == set(TOKENS["clicks"](one)) & set(known)


def test_sessions_with_the_same_tags_differ_by_co_occurrence_and_order() -> None:
    """A model of sessions as sets of tags sees neither."""
    ranker = random_ranker("isthmus", ITEMS, prior_of([["item-0"]], ITEMS))
    together = session_of([(1, ("car", "price"))])
    car_first, price_first = (session_of([(1, (one,)), (2, (other,))]) for one, other in (("car", "price"), ("price", "car")))
    scores = ranker.rank_many(ranker.encode_many([[together], [car_first], [price_first]]))
    assert not np.allclose(scores[0], scores[1])
    assert not np.allclose(scores[1], scores[2])


def test_a_session_without_a_known_tag_is_accepted() -> None:
    """Even as the last of a batch, and with more tags than are kept."""
    ranker = random_ranker("isthmus", ITEMS, prior_of([["item-0"]], ITEMS))
    crowded = session_of([(at, tuple(f"tag-{at}-{number}" for number in range(16))) for at in range(30)])
    assert np.isfinite(ranker.rank_many(ranker.encode_many([[session_of([(1, ("never",))])], [crowded]]))).all()

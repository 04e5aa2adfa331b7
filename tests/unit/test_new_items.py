"""An item that nobody has bought yet is ranked by its text, marked as new, and stays what it was when the first sales come."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from models.artifact import load_ranker, write_ranker
from models.network import NeuralRanker
from models.networks.isthmus import IsthmusConfig
from stream.core.encoded_items import EncodedItem, EncodedItemTable, encode_encoded_item
from stream.core.exploration import Exploration, explored
from stream.core.interactions import Session
from stream.core.outputs import TrainingExample
from stream.core.ranking import Rows
from stream.core.records import PlainRecord
from tests.purchases import ITEMS, TEXT_WIDTH, mixed_purchases
from training.loop import TrainingConfig
from training.text_vectors import TextVectors
from training.train_system import train_system

NEW = ITEMS[2]
DAY_MS = 86_400_000


def vector_of(number: int) -> Rows:
    """What the calls about an item say (`tests.purchases`)."""
    vector: Rows = np.eye(TEXT_WIDTH, dtype=np.float32)[number * 7]
    return vector


def encode(tags: Sequence[str]) -> Rows:
    """Tags name items; others have a direction of their own."""
    known = {f"about-{number}": vector_of(number) for number in range(len(ITEMS))}
    return np.stack([known.get(tag, np.eye(TEXT_WIDTH, dtype=np.float32)[300 + len(tag)]) for tag in tags])


TEXTS = TextVectors("text-1", {item: vector_of(number) for number, item in enumerate(ITEMS)}, encode)
CONFIG = TrainingConfig(network=IsthmusConfig(units=16, text_units=8), epochs=12, batch=64, learning_rate=0.02)


def looked_elsewhere(example: TrainingExample, number: int) -> TrainingExample:
    """Some of the others look at the new item too, so that its tag is known."""
    about = next((one for one in mixed_purchases(90, first=9_000) if one.items == (NEW,) and one.type == "session"), None)
    assert about is not None
    if number % 9 or not isinstance(about.interactions[0], Session):
        return example
    return msgspec.structs.replace(example, interactions=(*about.interactions, *example.interactions), type="session")


def trained(sales: int = 0, texts: TextVectors | None = TEXTS) -> NeuralRanker:
    """A model whose training has so few purchases of the new item, the last ones before it."""
    others = [one for one in mixed_purchases(520) if one.items != (NEW,)]
    bought = [one for one in mixed_purchases(520) if one.items == (NEW,)][:sales]
    late = [msgspec.structs.replace(one, occurred_at=others[-1].occurred_at + 1) for one in bought]
    examples = [*(looked_elsewhere(one, number) for number, one in enumerate(others)), *late]
    ranker = train_system("isthmus", examples[:-60], examples[-60:], ITEMS, CONFIG, texts=texts).ranker
    assert isinstance(ranker, NeuralRanker)
    return ranker


@pytest.fixture(scope="module")
def without_sales() -> NeuralRanker:
    return trained()


def fresh(item: str) -> list[TrainingExample]:
    return [one for one in mixed_purchases(400, first=2_000) if one.items == (item,)]


def scores(ranker: NeuralRanker, item: str) -> Rows:
    """(n, items) of users who looked at an item."""
    return ranker.rank_many(ranker.encode_many([one.interactions for one in fresh(item)]))


def test_an_item_without_sales_is_ranked_by_its_text(without_sales: NeuralRanker) -> None:
    """Most users who looked at it, or called about it, get it among their first three, and others do not."""
    place = ITEMS.index(NEW)
    among_first = [(-row).argsort()[:3].tolist().count(place) for row in scores(without_sales, NEW)]
    assert np.mean(among_first) > 0.8
    assert scores(without_sales, NEW)[:, place].mean() > 3 * scores(without_sales, ITEMS[0])[:, place].mean()
    assert without_sales.new_items == {NEW}


def test_an_item_that_training_did_not_know_gets_the_score_that_it_would_have(without_sales: NeuralRanker) -> None:
    """What is added later by its vector, and what was in the catalogue without sales, are one. The others' scores stay."""
    served = without_sales.with_new_items({"later": vector_of(2), ITEMS[0]: vector_of(5), "broken": np.zeros(3, np.float32)})
    before, after = scores(without_sales, NEW), scores(served, NEW)
    assert served.items == (*ITEMS, "later")
    assert served.fingerprint == without_sales.fingerprint
    assert np.allclose(after[:, :-1], before)
    assert np.allclose(after[:, -1], before[:, ITEMS.index(NEW)], atol=1e-5)
    assert served.new_items == {NEW, "later"}
    assert served.with_new_items({}).items == ITEMS


def test_a_score_does_not_jump_at_the_first_training(without_sales: NeuralRanker) -> None:
    """With its first sales it is no longer new, and its score among those who look at it does not fall."""
    once = trained(sales=6)
    place = ITEMS.index(NEW)
    assert once.new_items == frozenset()
    assert scores(once, NEW)[:, place].mean() > 0.8 * scores(without_sales, NEW)[:, place].mean()


def test_without_texts_or_with_those_of_another_model_nothing_is_ranked_by_text() -> None:
    """Then an item without sales is what it was before."""
    for texts in (None, TEXTS._replace(text_model="other")):
        ranker = trained(texts=texts)
        assert not ranker.reads_item_texts
        assert ranker.with_new_items({"later": vector_of(2)}).items == ITEMS


def test_a_model_folder_keeps_what_texts_need(without_sales: NeuralRanker, tmp_path: Path) -> None:
    """And no text: vectors in a space of few dimensions."""
    sha256 = write_ranker(tmp_path / "model", without_sales, version="3")
    loaded = load_ranker(str(tmp_path / "model"), sha256)
    assert isinstance(loaded, NeuralRanker)
    assert loaded.new_items == {NEW}
    served = [one.with_new_items({"later": vector_of(4)}) for one in (without_sales, loaded)]
    assert np.allclose(scores(served[0], NEW), scores(served[1], NEW))


def test_places_for_new_items_are_decided_by_user_and_day() -> None:
    """In the mean the share; the same list again for the same user and day, and another choice for another."""
    items = [f"i{number}" for number in range(40)]
    ranked, offered = list(range(15)), list(range(20, 40))

    def of(user: int, day: int, share: float = 0.3) -> list[int]:
        return explored(ranked, offered, items, 5, Exploration(share, b"u%d" % user, day * DAY_MS + 7))

    lists = [of(user, 1) for user in range(400)]
    shares = [len(set(one[:5]) & set(offered)) / 5 for one in lists]
    assert abs(float(np.mean(shares)) - 0.3) < 0.03
    assert lists == [of(user, 1) for user in range(400)]
    assert lists != [of(user, 2) for user in range(400)]
    assert len({position for one in lists for position in one[:5]} & set(offered)) == len(offered)
    assert all(len(one) == 15 and len(set(one)) == 15 and one[0] == 0 for one in lists)
    assert of(1, 1, 0.0) == ranked
    assert set(of(1, 1, 1.0)[:5]) <= set(offered)


def test_records_that_hold_no_vector_change_nothing() -> None:
    """They are counted. A tombstone takes the vector away."""

    def record(key: str, value: bytes | None) -> PlainRecord:
        return PlainRecord(0, 0, key.encode(), value)

    def item(name: str, vector: bytes) -> bytes:
        return encode_encoded_item(EncodedItem(item_id=name, text_model="m", text_hash="h", vector=vector))

    good = np.ones(4, dtype="<f2").tobytes()
    table = EncodedItemTable()
    bad = [
        b"\0",
        item("b", good),
        item("a", b"odd"),
        item("a", np.array([np.nan], dtype="<f2").tobytes()),
        item("a", b"0" * 20_000),
    ]
    assert table.apply([record("a", item("a", good)), *(record("a", value) for value in bad)]) == len(bad)
    assert list(table.of_model("m")) == ["a"]
    assert list(table.of_model("other")) == []
    assert table.apply([record("a", None)]) == 0
    assert table.items == {}

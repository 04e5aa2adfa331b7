"""Whose announcements of models count: with a key, only signed ones, whatever stands in the topic."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from models.artifact import ModelRefused
from stream.api.catalogue import CurrentCatalogue
from stream.core.announcements import (
    UNSIGNED,
    AnnouncementTrust,
    ModelAnnouncement,
    RefusedAnnouncement,
    decode_announcement,
    encode_announcement,
    read_announcement,
    signed,
)
from stream.core.records import PlainRecord
from stream.kafka.agents.followers import ServedModelFollower
from stream.kafka.agents.served_model import ServedModel
from stream.metrics import Metrics
from tests import world

FIRST, SECOND = b"first-key-of-a-test" * 2, b"second-key-of-a-test" * 2
TRUST = AnnouncementTrust("shop", (FIRST,))


def announcement(version: str = "1", published_at: int = 1_000, **changes: Any) -> ModelAnnouncement:
    made = ModelAnnouncement(role="champion", name="order", version=version, uri=version, sha256=version, published_at=published_at)
    return msgspec.structs.replace(made, **changes)


def read(announced: ModelAnnouncement, trust: AnnouncementTrust) -> ModelAnnouncement | RefusedAnnouncement:
    return read_announcement(encode_announcement(announced), trust)


def test_a_signed_announcement_is_read_with_its_key() -> None:
    """And by a process without a key, as one of an earlier version reads it."""
    made = signed(announcement(), TRUST)
    assert read(made, TRUST) == made
    assert read(made, UNSIGNED) == made


def test_without_a_key_announcements_are_as_they_were() -> None:
    """Earlier versions and other readers find what they know."""
    assert signed(announcement(), UNSIGNED) == announcement()
    assert encode_announcement(announcement()).endswith(b'"published_at":1000}')


def test_an_unsigned_announcement_is_refused_where_there_is_a_key() -> None:
    assert read(announcement(), TRUST) == RefusedAnnouncement(
        "signature", "it is not signed, and registry.announcement_keys is set"
    )


CHANGES = {"role": "shadow", "name": "x", "version": "x", "uri": "x", "sha256": "x", "published_at": 2, "application": "bank"}


def test_every_field_of_an_announcement_is_signed() -> None:
    """Each one changed alone is refused; a field that is added must be signed too."""
    assert {*CHANGES, "signature"} == set(ModelAnnouncement.__struct_fields__)
    made = signed(announcement(), TRUST)
    for name, value in CHANGES.items():
        changed: Any = {name: value}
        refused = read(msgspec.structs.replace(made, **changed), TRUST)
        assert isinstance(refused, RefusedAnnouncement), name


@pytest.mark.parametrize(
    ("trust", "words"),
    [
        (AnnouncementTrust("shop", (SECOND,)), "signed with none of registry.announcement_keys"),
        (AnnouncementTrust("bank", (FIRST,)), "signed for another application than bank"),
    ],
)
def test_another_key_or_application_is_refused_as_what_it_is(trust: AnnouncementTrust, words: str) -> None:
    refused = read(signed(announcement(), TRUST), trust)
    assert isinstance(refused, RefusedAnnouncement)
    assert words in refused.text


@pytest.mark.parametrize("signature", ["", "é", "0" * 64, "signature"])
def test_a_wrong_signature_is_refused_whatever_it_looks_like(signature: str) -> None:
    forged = announcement(application="shop", signature=signature)
    assert isinstance(read(forged, TRUST), RefusedAnnouncement)


def test_keys_are_replaced_one_after_the_other() -> None:
    """Readers first know both, then the writer signs with the new one, then the old one is taken away."""
    both = AnnouncementTrust("shop", (SECOND, FIRST))
    old, new = signed(announcement(), TRUST), signed(announcement(), both)
    assert [read(one, both) for one in (old, new)] == [old, new]
    assert isinstance(read(old, AnnouncementTrust("shop", (SECOND,))), RefusedAnnouncement)
    assert read(new, AnnouncementTrust("shop", (SECOND,))) == new


@pytest.mark.parametrize("field", ["name", "version", "uri", "sha256"])
def test_the_texts_of_an_announcement_are_bounded(field: str) -> None:
    """They become labels of metrics and lines of logs."""
    value = msgspec.json.encode(msgspec.structs.asdict(announcement()) | {field: "x" * 3_000, "application": "a", "signature": "s"})
    refused = read_announcement(value, UNSIGNED)
    assert isinstance(refused, RefusedAnnouncement)
    assert len(refused.text) < 200


def test_an_announcement_of_another_role_is_no_champion() -> None:
    """A signed challenger, sent again under another key, stays a challenger."""
    made = signed(announcement(role="challenger"), TRUST)
    refused = read(made, TRUST)
    assert isinstance(refused, RefusedAnnouncement)
    assert refused.text == "it names the role challenger under the key champion"


class Followers:
    """A worker's and a replica's follower of `models`, with the versions that they serve."""

    def __init__(self, trust: AnnouncementTrust, load: Callable[[str], None]) -> None:
        self.metrics, self.api_metrics, self.served = Metrics(), Metrics(), ServedModel(catalogue=world.catalogue())

        def ranker(uri: str, _: str) -> Any:
            load(uri)
            return world.OrderRanker(uri)

        def prior(uri: str, _: str) -> Any:
            load(uri)
            return (), np.zeros(0, dtype=np.float32), None

        self.worker = ServedModelFollower(self.served, self.metrics, ranker, trust=trust)
        self.api = CurrentCatalogue(prior, self.api_metrics, trust=trust)

    async def follow(self, *announced: ModelAnnouncement, replace: bool = False) -> None:
        records = [PlainRecord(offset, 0, b"champion", encode_announcement(one)) for offset, one in enumerate(announced)]
        await self.worker.on_models(records, replace=replace)
        await self.api.on_models(records, replace=replace)

    @property
    def versions(self) -> set[str | None]:
        of_worker, of_api = self.served.ranker, self.api.popularity
        return {None if of_worker is None else of_worker.version, None if of_api is None else of_api.model.version}

    def refusals(self, reason: str) -> list[float]:
        return [metrics.total("model_refusals", reason) for metrics in (self.metrics, self.api_metrics)]


@pytest.fixture
def followers() -> Followers:
    return Followers(TRUST, lambda _: None)


async def test_worker_and_api_keep_their_champion_when_somebody_without_the_key_announces_another(
    followers: Followers, caplog: pytest.LogCaptureFixture
) -> None:
    """The refusal is counted, and the log says what, where and what to do."""
    await followers.follow(signed(announcement("1"), TRUST))
    await followers.follow(announcement("2", 2_000), signed(announcement("3", 3_000), AnnouncementTrust("shop", (SECOND,))))
    assert followers.versions == {"1"}
    assert followers.refusals("signature") == [2.0, 2.0]
    assert "model refused (signature): record 1 of the topic of models: it is signed with none of" in caplog.text
    assert "find out who wrote it; `isthmus models announce`" in caplog.text
    assert "keeping the model that is served" in caplog.text


async def test_a_starting_worker_and_api_pass_over_what_is_not_signed(followers: Followers) -> None:
    await followers.follow(signed(announcement("1"), TRUST), announcement("2", 2_000))
    assert followers.versions == {"1"}


async def test_what_a_signed_announcement_has_replaced_is_no_refusal(followers: Followers) -> None:
    """Before a key was set, announcements were not signed, and compaction takes its time."""
    await followers.follow(announcement("1"), signed(announcement("2", 2_000), TRUST))
    assert followers.versions == {"2"}
    assert followers.refusals("signature") == [0.0, 0.0]


async def test_an_old_signed_announcement_that_is_sent_again_is_refused(followers: Followers) -> None:
    """By those that serve a newer one, and by those that start; the way back to an old model is a new announcement."""
    old, new = signed(announcement("1", 1_000), TRUST), signed(announcement("2", 2_000), TRUST)
    await followers.follow(old, new)
    await followers.follow(old)
    assert followers.versions == {"2"}
    assert followers.refusals("replayed") == [1.0, 1.0]
    starting = Followers(TRUST, lambda _: None)
    await starting.follow(new, old)
    assert starting.versions == {"2"}
    await followers.follow(signed(announcement("1", 3_000), TRUST))
    assert followers.versions == {"1"}


async def test_without_a_key_the_last_record_counts_whatever_its_time() -> None:
    """A time that nobody vouches for says nothing."""
    followers = Followers(UNSIGNED, lambda _: None)
    await followers.follow(announcement("1", 2_000))
    await followers.follow(announcement("2", 1_000))
    assert followers.versions == {"2"}


async def test_a_refusal_is_logged_once_and_is_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing that time may mend."""
    asked: list[str] = []

    def load(uri: str) -> None:
        asked.append(uri)
        raise ModelRefused("untrusted", f"{uri} does not lie below a trusted folder")

    followers = Followers(UNSIGNED, load)
    await followers.follow(announcement("1"))
    for _ in range(3):
        await followers.worker.retry()
        await followers.api.try_again()
    await followers.follow(announcement("1"), replace=True)
    assert asked == ["1"] * 4
    assert followers.refusals("untrusted") == [2.0, 2.0]
    assert caplog.text.count("model refused (untrusted): 1 does not lie below") == 2  # worker and API


async def test_somebody_without_the_key_does_not_end_the_retries_of_a_champion() -> None:
    """Its storage was away; the unsigned record changes nothing."""
    away = {"1"}

    def load(uri: str) -> None:
        if uri in away:
            raise ModelRefused("unreadable", f"{uri} cannot be read")

    followers = Followers(TRUST, load)
    await followers.follow(signed(announcement("1"), TRUST))
    await followers.follow(announcement("2", 2_000))
    away.clear()
    await followers.worker.retry()
    await followers.api.try_again()
    assert followers.versions == {"1"}


def test_a_signed_announcement_is_what_a_reader_of_json_expects() -> None:
    """Two fields more, both texts."""
    value = encode_announcement(signed(announcement(), TRUST))
    assert set(msgspec.json.decode(value)) == set(ModelAnnouncement.__struct_fields__)
    assert decode_announcement(value).application == "shop"

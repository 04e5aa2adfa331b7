"""Served ids: what a list was that no topic holds, signed, for its user alone, on any replica."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from stream.api.served_lists import ServedList, ServedLists
from stream.api.signing import Signer
from stream.api.user_tokens import UserToken, read_token, sign_token
from stream.core.limits import DAY_MS, HOUR_MS
from stream.services.api import now_ms
from tests import api
from tests.api import ITEMS, NOW, Replica, replica

SERVED = ServedLists(Signer([api.TOKEN_SECRET.encode()]))
SHOWN = ITEMS[:3]


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Replica]:
    log = api.new_log()
    api.put_items(log)
    api.put_list(log, "u")
    async with replica(log, tmp_path, placements=("home",)) as started:
        await started.until(lambda: catalogue_of(started, 20))
        yield started


async def catalogue_of(running: Replica, count: int) -> bool:
    return len(running.parts.current.catalogue.items) == count


async def list_of(running: Replica, user: str, **parameters: Any) -> tuple[dict[str, Any], ServedList | None]:
    """An answer, and what another replica reads from its served id."""
    answer = (await running.get(f"/v1/users/{user}/recommendations", params=parameters)).json()
    served_id = answer.get("served_id")
    return answer, None if served_id is None else SERVED.verify(served_id, user, now_ms())


async def test_the_topics_own_list_needs_no_served_id(running: Replica) -> None:
    """Its recommendation id says what it was."""
    answer, _ = await list_of(running, "u")
    assert answer["recommendation_id"]
    assert "served_id" not in answer


@pytest.mark.parametrize(("parameters", "count"), [({"limit": 2}, 2), ({"limit": 8}, 8)])
async def test_a_list_of_another_length_says_what_it_was(running: Replica, parameters: dict[str, Any], count: int) -> None:
    """Fewer items than the topic's, or some of its reserve: the topic's list was not what was shown."""
    _, served = await list_of(running, "u", **parameters)
    assert served is not None
    assert (served.model_version, served.items) == ("7", ITEMS[:count])


async def test_filtered_and_strangers_lists_say_what_they_were(running: Replica) -> None:
    """Items in shown order, the model's version and the placement."""
    api.withdraw(running.log, "item-01")
    await running.until(lambda: catalogue_of(running, 19))
    for user, version in (("u", "7"), ("nobody", "")):
        answer, served = await list_of(running, user, placement="home")
        assert served is not None
        assert served.items == tuple(one["item"] for one in answer["items"])
        assert (served.model_version, served.placement) == (version, "home")


async def test_a_held_list_keeps_its_etag_and_its_id(running: Replica) -> None:
    """The same list has the same served id for hours: it would be sent again with each question otherwise."""
    first = await running.get("/v1/users/nobody/recommendations")
    again = await running.get("/v1/users/nobody/recommendations", headers={"If-None-Match": first.headers["ETag"]})
    assert again.status_code == 304


async def test_without_secrets_lists_have_no_served_id(tmp_path: Path) -> None:
    """And are served all the same."""
    async with replica(api.new_log(), tmp_path, token_secrets=()) as started:
        answer = (await started.get("/v1/users/nobody/recommendations")).json()
    assert answer["fallback"] == "catalogue"
    assert "served_id" not in answer


def test_a_served_id_is_good_for_a_day_at_least() -> None:
    """From the last moment in which it may be served; and for a day and a half at most."""
    last = NOW - NOW % (12 * HOUR_MS) + 12 * HOUR_MS - 1
    served_id = SERVED.issue("u", "7", SHOWN, last)
    assert served_id is not None
    found = SERVED.verify(served_id, "u", last + DAY_MS)
    assert found is not None
    assert found.items == SHOWN
    assert SERVED.verify(served_id, "u", last + DAY_MS + 1) is None


def test_a_served_id_is_its_users_alone() -> None:
    """Nobody else's feedback may bring it; a guest's list becomes anybody's, because the guest may turn out to be anybody."""
    mine, guests = SERVED.issue("u", "7", SHOWN, NOW), SERVED.issue("", "7", SHOWN, NOW)
    assert mine is not None
    assert guests is not None
    assert SERVED.verify(mine, "v", NOW) is None
    assert SERVED.verify(guests, "v", NOW) is not None


def test_a_served_id_survives_the_replacement_of_a_secret_and_cannot_be_made() -> None:
    """Two live secrets; a changed text, a foreign secret, another kind of statement are nothing."""
    served_id = SERVED.issue("u", "7", SHOWN, NOW)
    assert served_id is not None
    assert ServedLists(Signer([b"n" * 32, api.TOKEN_SECRET.encode()])).verify(served_id, "u", NOW) is not None
    foreign = ServedLists(Signer([b"n" * 32])).issue("u", "7", SHOWN, NOW)
    signer = Signer([api.TOKEN_SECRET.encode()])
    token = sign_token(signer, UserToken("u", NOW, NOW + 60_000))
    _, payload, signature = served_id.split(".")
    broken = [
        foreign,
        token,
        token.replace("ist", "isl"),
        f"isl.{payload}.",
        f"isl.{payload}A.{signature}",
        f"isl.é.{signature}",
        "",
        "isl..",
    ]
    assert [SERVED.verify(str(one), "u", NOW) for one in broken] == [None] * len(broken)
    assert read_token(signer, served_id.replace("isl", "ist"), NOW) is None

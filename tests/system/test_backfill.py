"""`isthmus backfill` on real Kafka: a new application beside the running one, who is gone in it, what keeps the switch back."""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from stream.application import worker_group
from stream.cli.backfill import app
from stream.core.events import Click, Erasure, Feedback, Purchase, Source, UserEvent
from stream.core.state import erasure_marker_key, head_key
from stream.errors import IsthmusError
from stream.kafka.cluster.backfill_note import Phase, read_backfill, write_backfill
from stream.kafka.cluster.clients import ConsumerClient
from stream.kafka.cluster.group_reset import members_of
from stream.kafka.cluster.topics import admin_client, changelog_name
from stream.services.backfill.files import files_in, read_events
from stream.services.backfill.start import require_held, start_backfill, unnamed_in_inputs
from stream.services.backfill.successor import successor_of
from stream.services.backfill.switch import switch
from stream.services.child_processes import wait_for
from stream.settings import Settings
from tests.system.exact import actual, newest, read_all, users_of
from tests.system.filled import NUMBERS, TERM, delete_before_end, fold, send, settings_of, write
from tests.world import Store, history_of

NOW: Final = 1_750_000_000_000
DAY: Final = 86_400_000
USERS: Final = tuple(f"u{number}" for number in range(6))
EVENTS: Final[list[tuple[Source, UserEvent]]] = [
    *((Source.CLICK, Click(user, NOW, ("home",), f"c-{user}")) for user in USERS),
    (Source.ERASURE, Erasure("u3", NOW - DAY, "e")),
]
PAST: Final = [Click(user, NOW - 2 * DAY, ("past",), f"past-{user}") for user in ("u1", "u3", "gone")]


@pytest.fixture
def settings(empty_kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Of the running application; the new one's come from the same environment."""
    monkeypatch.setenv("ISTHMUS_TOPICS__PARTITIONS", str(len(NUMBERS)))
    monkeypatch.setenv("ISTHMUS_KAFKA__BOOTSTRAP", empty_kafka)
    monkeypatch.setenv("ISTHMUS_KAFKA__DEV", "true")
    found = settings_of(empty_kafka, tmp_path)
    send(found, EVENTS)
    write(found, fold(found))
    return found


@pytest.fixture
def admin(empty_kafka: str) -> Iterator[Any]:
    with closing(admin_client(empty_kafka)) as client:
        yield client


def begin(settings: Settings, data: Path | None = None) -> Settings:
    return start_backfill(settings, "shop", data, lambda _: None, past_markers=False)


def held(settings: Settings) -> dict[int, Store]:
    """What workers restore."""
    found = read_all(settings.kafka.bootstrap, changelog_name(worker_group(settings.application)))
    stores = {number: Store() for number in NUMBERS}
    for number, records in found.items():
        stores[number].records = newest({number: records})
    return stores


def let_read(new: Settings, term: int = TERM) -> None:
    """Writes what the new application's workers make of the inputs, on top of what they restore."""
    write(new, fold(new, held(new)), term)


def switched(settings: Settings, *, lose_history: bool = False) -> int:
    return switch(settings, "shop", lambda _: None, lose_history=lose_history).users


def test_a_new_application_replaces_the_running_one_once_it_knows_as_much_of_every_user(settings: Settings) -> None:
    """Before, the command says how much it lacks. Afterwards it names what consumers read, and has nothing more to do."""
    begun = CliRunner().invoke(app, ["start", "shop"])
    assert begun.exit_code == 0, begun.output
    assert "  ISTHMUS_APPLICATION=shop\n  ISTHMUS_REGISTRY__ANNOUNCED_BY=isthmus\n  ISTHMUS_TOPICS__MODELS=models" in begun.output
    with pytest.raises(IsthmusError, match="shop is 7 records behind isthmus: let its workers read them"):
        switched(settings)
    let_read(successor_of(settings, "shop"))
    done = CliRunner().invoke(app, ["switch", "shop"])
    assert done.exit_code == 0, done.output
    assert "checked 6 users: no list has older applied offsets than the one it replaces" in done.output
    assert "  shop-recommendations  instead of  recommendations" in done.output
    with pytest.raises(IsthmusError, match="the backfill of shop is not ready: run `isthmus backfill start shop`"):
        switched(settings)


def test_a_list_with_older_applied_offsets_keeps_the_switch_back(settings: Settings) -> None:
    """Of one user, although the new application has read everything."""
    new = begin(settings)
    stores = fold(new, held(new))
    for store in stores.values():
        store.records.pop(head_key(b"u1"), None)
    write(new, stores)
    with pytest.raises(IsthmusError, match=r"1 of 6 users would get lists with older applied offsets than they have: shop lacks"):
        switched(settings, lose_history=True)


def test_lists_that_know_less_because_the_inputs_do_need_a_word_of_their_own(settings: Settings, admin: Any) -> None:
    """The clicks have left their topic, and no file held them."""
    delete_before_end(admin, settings, "web-clicks")
    let_read(begin(settings))
    with pytest.raises(IsthmusError, match=r"6 of 6 users would lose what isthmus knows of them \(6 history\): .* --lose-history"):
        switched(settings)
    assert switched(settings, lose_history=True) == 6


def test_erasures_that_came_between_and_left_their_topic_are_carried_over(settings: Settings, admin: Any) -> None:
    """Only while no worker of the new application runs. What it holds of the users goes, of one also where that is feedback only,
    and what comes later stays out. An erasure without a time is known by its id: sent again, it erases nothing that came since.
    """
    send(settings, [(Source.FEEDBACK, Feedback("seen", NOW, "web", "shown", ("item-1",), "f"))])
    write(settings, fold(settings), TERM + 1)
    new, bootstrap = begin(settings), settings.kafka.bootstrap
    let_read(new)
    send(settings, [(Source.ERASURE, Erasure("u2", None, "again")), (Source.ERASURE, Erasure("seen", NOW + 10, "e2"))])
    write(settings, fold(settings), TERM + 2)
    delete_before_end(admin, settings, "erasures")
    with closing(ConsumerClient(bootstrap_servers=bootstrap, group_id=worker_group("shop"), client_id="w")) as one:
        one.subscribe(["web-clicks"])
        wait_for(lambda: bool(one.poll(timeout_ms=100) or members_of(admin, [worker_group("shop")])), [], 60, "the membership")
        with pytest.raises(IsthmusError, match=r"shop has not read 2 erasures.*Stop its workers and encoders \(w on 127.0.0.1"):
            switched(settings)
    wait_for(lambda: not members_of(admin, [worker_group("shop")]), [], 60, "the end of the membership")
    with pytest.raises(IsthmusError, match=r"2 erasures were carried over: start the workers and encoders of shop"):
        switched(settings)
    with pytest.raises(IsthmusError, match=r"shop has not read 2 erasures yet: let its workers read them"):
        switched(settings)
    let_read(new, 100)
    assert not {"u2", "seen"} & users_of(actual(bootstrap, new.topics, "shop"))
    assert not [key for store in held(new).values() for key, value in store.records.items() if b"seen" in key and value]
    assert switched(settings) == 5
    later = [(Source.CLICK, Click("u2", time.time_ns() // 1_000_000, ("later",), "c-later"))]
    send(settings, [*later, (Source.ERASURE, Erasure("u2", None, "again"))])
    let_read(new, 200)
    assert "u2" in users_of(actual(bootstrap, new.topics, "shop"))


def test_another_erasure_key_is_refused(settings: Settings) -> None:
    """Of the command at each step, where a user came back or the backfill has begun, and of the new application's workers."""
    key = settings.step.model_copy(update={"erasure_key": SecretStr("another")})
    other = settings.model_copy(update={"step": key})
    with pytest.raises(IsthmusError, match=r"step.erasure_key is not the one of the workers: erased users who came back"):
        begin(other)
    write_backfill(settings, "shop", None)
    reset_topics = changelog_name(worker_group("shop"))
    assert not newest(read_all(settings.kafka.bootstrap, reset_topics))
    new = begin(settings)
    for step in (begin, switched):
        with pytest.raises(IsthmusError, match=r"step.erasure_key is not the one that the backfill of shop began with"):
            step(other)
    send(settings, [(Source.ERASURE, Erasure("u2", NOW + 10, "e2"))])
    write(settings, fold(settings), TERM + 1)
    stores = fold(new, held(new))
    for store in stores.values():
        store.records.pop(erasure_marker_key(b"u2", b"isthmus"), None)
    write(new, stores)
    with pytest.raises(IsthmusError, match=r"keeps no markers of them under step.erasure_key: its workers have another"):
        switched(settings)


def test_a_name_that_cannot_be_the_new_application_is_refused(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The running one's, none at all, one with states, another's backfill; and outputs that the settings name for both."""
    for name, said in (("isthmus", "isthmus is the running application"), ("Shop!", "is no name of an application")):
        with pytest.raises(IsthmusError, match=said):
            successor_of(settings, name)
    shop = settings_of(settings.kafka.bootstrap, tmp_path, "shop")
    with pytest.raises(IsthmusError, match=r"the backfill of shop is not ready"):
        switched(settings)
    write(shop, fold(shop))
    with pytest.raises(IsthmusError, match="the application shop has states already: name another"):
        begin(settings)
    start_backfill(settings, "third", None, lambda _: None, past_markers=False)
    with pytest.raises(IsthmusError, match="third is the backfill of the application isthmus, not of shop"):
        start_backfill(shop, "third", None, lambda _: None, past_markers=False)
    monkeypatch.setenv("ISTHMUS_TOPICS__RECOMMENDATIONS", "lists")
    both = settings.model_copy(update={"topics": settings.topics.model_copy(update={"recommendations": "lists"})})
    with pytest.raises(
        IsthmusError, match=r"topics.recommendations is set, so that both applications would write to lists: unset it"
    ):
        successor_of(both, "shop")


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        ("clicks", b'{"user_id": "u"}', r"clicks.ndjson:1: .*occurred_at"),
        ("transcripts", b"{", r"transcripts.ndjson:1: "),
        ("erasures", b'{"user_id": "u"}', r"erasures.ndjson:1: an erasure of the past needs occurred_at"),
        ("sales", b"{}", r"holds sales.ndjson, which is named after no input: name the files clicks.ndjson, "),
        (None, b"", "holds no file of events"),
    ],
)
def test_files_that_hold_no_events_are_refused_before_anything_is_sent(
    tmp_path: Path, name: str | None, line: bytes, said: str
) -> None:
    """By file and line."""
    if name is not None:
        (tmp_path / f"{name}.ndjson").write_bytes(line + b"\n")
    with pytest.raises(IsthmusError, match=said):
        list(read_events(files_in(tmp_path)))


def past_in(folder: Path) -> Path:
    folder.mkdir()
    (folder / "clicks.ndjson").write_bytes(b"".join(msgspec.json.encode(click) + b"\n" for click in PAST))
    return folder


def test_events_older_than_erasure_markers_are_kept_are_refused_unless_told(settings: Settings, tmp_path: Path) -> None:
    """Who was erased before would come back."""
    step = settings.step.model_copy(update={"marker_retention_s": 37 * 86_400})
    limited = settings.model_copy(update={"step": step})
    with pytest.raises(IsthmusError, match=r"older than step.marker_retention_s \(3196800 s\).*go on with --past-markers"):
        begin(limited, past_in(tmp_path / "past"))
    begin(limited)


class Interrupted(BaseException):
    """Ends the command as a kill would."""


def test_events_that_could_not_be_told_from_those_of_the_inputs_are_refused(settings: Settings, tmp_path: Path) -> None:
    """Clicks and purchases without an id, as new as the inputs, or received by these as late as is allowed; nothing has begun then.
    Told to, the command leaves them out, and says if the inputs may have lost them before the new workers could read them.
    """
    now, past = time.time_ns() // 1_000_000, past_in(tmp_path / "past")
    received_late = Purchase("u1", now - DAY // 2, ("item-2",))
    send(settings, [(Source.PURCHASE, received_late)])
    for name, event in (
        ("clicks", Click("u1", now, ("new",))),
        ("purchases", Purchase("u1", now - 2 * DAY, ("item-1",))),
        ("purchases", received_late),
    ):
        with (past / f"{name}.ndjson").open("ab") as file:
            file.write(msgspec.json.encode(event) + b"\n")
    with pytest.raises(IsthmusError, match=r"clicks.ndjson:4: 2 clicks and purchases without event_id, this one first, are as new"):
        begin(settings, past)
    assert read_backfill(settings, "shop") is None

    def stop_before_folding(text: str) -> None:
        if text.startswith("starting a worker"):
            raise Interrupted

    with pytest.raises(Interrupted):
        start_backfill(settings, "shop", past, stop_before_folding, leave_out_unnamed=True)
    sent = {
        one: sum(map(len, read_all(settings.kafka.bootstrap, f"shop-past-{one}").values())) for one in ("web-clicks", "purchases")
    }
    assert sent == {"web-clicks": len(PAST), "purchases": 1}
    note = read_backfill(settings, "shop")
    assert note is not None
    left = list(unnamed_in_inputs(read_events(files_in(past)), settings, note.begins))
    assert [one.where for one in left] == [f"{past / 'clicks.ndjson'}:4", f"{past / 'purchases.ndjson'}:2"]
    require_held(settings, left, note.begins, note.begins)
    with pytest.raises(IsthmusError, match=r"clicks.ndjson:4: this event was left to the inputs, and they may no longer hold it"):
        require_held(settings, left, note.begins, dict.fromkeys(note.begins, now + DAY))


@pytest.mark.timeout(400)
def test_who_was_erased_stays_gone_although_files_hold_the_events_and_the_erasure_has_left_its_topic(
    settings: Settings, admin: Any, tmp_path: Path
) -> None:
    """The others have their past in the new application, each event once, however often the command is interrupted: also those
    that are as new as the inputs, whether these hold them, never did, or lost them before the new workers read them.
    """
    delete_before_end(admin, settings, "erasures")
    past, now = past_in(tmp_path / "past"), time.time_ns() // 1_000_000
    both, left = Click("u2", now, ("both",), "b"), Purchase("u2", now, ("item-1",), "l")
    for name, event in (("clicks", both), ("clicks", Click("u2", now, ("file",), "f")), ("purchases", left)):
        with (past / f"{name}.ndjson").open("ab") as file:
            file.write(msgspec.json.encode(event) + b"\n")
    send(settings, [(Source.CLICK, both), (Source.PURCHASE, left)])
    write(settings, fold(settings, held(settings)), TERM + 1)
    delete_before_end(admin, settings, "purchases")

    def stop_before_folding(text: str) -> None:
        if text.startswith("starting a worker"):
            raise Interrupted

    note = None
    for _ in range(2):
        with pytest.raises(Interrupted):
            start_backfill(settings, "shop", past, stop_before_folding, past_markers=False)
        note = read_backfill(settings, "shop")
        assert note is not None
        assert note.phase is Phase.SENT
        write_backfill(settings, "shop", msgspec.structs.replace(note, phase=Phase.MARKED))  # it was sent, and not yet noted
    assert note is not None
    write_backfill(settings, "shop", msgspec.structs.replace(note, phase=Phase.READY))
    with pytest.raises(IsthmusError, match="shop has not read 6 records of the past: run `isthmus backfill start shop` again"):
        switched(settings)
    write_backfill(settings, "shop", msgspec.structs.replace(note, phase=Phase.SENT))
    with pytest.raises(IsthmusError, match="the backfill of shop has begun with other files"):
        begin(settings)
    new = begin(settings, past)
    assert sum(map(len, read_all(settings.kafka.bootstrap, "shop-past-web-clicks").values())) == len(PAST) + 2
    let_read(new, 100)
    found, former = (actual(settings.kafka.bootstrap, one.topics, one.application) for one in (new, settings))
    assert users_of(found) == {*USERS, "gone"}
    assert history_of(found, "u3") == history_of(former, "u3")
    assert len(history_of(found, "u1")) == len(history_of(former, "u1")) + 1
    sessions: Any = history_of(found, "u2")
    assert [sorted(tags for _, tags in clicks) for _, _, _, clicks in sessions[:2]] == [[("home",)], [("both",), ("file",)]]
    assert history_of(found, "u2")[2] == [(now, "l", True, ("item-1",))]
    assert switched(settings) == 6

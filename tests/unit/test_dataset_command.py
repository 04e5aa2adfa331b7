"""`isthmus dataset`: writes, says what it wrote or found, and does not overwrite."""

import gzip
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from stream.cli.dataset import app
from stream.errors import IsthmusError
from training.datasets.synthetic import NOTICE
from training.datasets.synthetic.write_tables import write_tables
from training.datasets.tables.reader import read_tables


def test_it_writes_tables_and_events_and_says_that_they_are_synthetic(tmp_path: Path) -> None:
    tables, events = tmp_path / "tables", tmp_path / "events"
    result = CliRunner().invoke(app, ["synthesize", "--out", str(tables), "--purchases", "50", "--events", str(events)])
    assert result.exit_code == 0, result.output
    assert NOTICE in result.output
    assert (tables / "data_users.csv.gz").exists()
    assert (events / "clicks.jsonl").exists()


def test_it_refuses_a_folder_that_is_not_empty_unless_forced(tmp_path: Path) -> None:
    """What is there may be somebody's data."""
    (tmp_path / "mine.txt").write_text("mine")
    arguments = ["synthesize", "--out", str(tmp_path), "--purchases", "20"]
    refused = CliRunner().invoke(app, arguments)
    assert isinstance(refused.exception, IsthmusError)
    assert "--force" in str(refused.exception)
    assert CliRunner().invoke(app, [*arguments, "--force"]).exit_code == 0
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_help_has_an_example_and_says_that_the_world_is_synthetic() -> None:
    text = CliRunner().invoke(app, ["synthesize", "--help"]).output
    assert "isthmus dataset synthesize" in text
    assert "synthetic" in text


@pytest.mark.parametrize("purchases", ["0", "-1"])
def test_it_refuses_a_world_without_purchases(purchases: str, tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["synthesize", "--out", str(tmp_path / "x"), "--purchases", purchases]).exit_code == 2


def test_usable_data_is_reported_and_unusable_data_is_named(tmp_path: Path) -> None:
    """Exit code 0 or 1; each problem with its row."""
    write_tables(tmp_path, 60, 0)
    result = CliRunner().invoke(app, ["validate", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "60 purchase events" in result.output
    with (tmp_path / "data_users.csv").open("w") as file:
        file.write("user_id,purchase_event_id,event_number,conversation_id,session_id\n1,1,1,,\n1,99999,1,,1\n")
    (tmp_path / "data_users.csv.gz").unlink()
    result = CliRunner().invoke(app, ["validate", str(tmp_path)])
    assert result.exit_code == 1
    assert "row 2: exactly one of conversation_id and session_id" in result.output
    assert "row 3: purchase event 99999 is not in data_purchase_events" in result.output
    assert isinstance(CliRunner().invoke(app, ["validate", str(tmp_path / "nothing")]).exception, IsthmusError)


@pytest.mark.parametrize(
    ("events", "code", "reported"),
    [
        (0, 1, "only 0 purchase events with interactions before them: 50 are needed to train"),
        (60, 0, "trained on and replayed; 60 purchase events with interactions before them are too few for a benchmark"),
        (100, 0, "no problems: it can be trained on, replayed and benchmarked"),
    ],
)
def test_a_data_set_reports_what_it_is_too_small_for(tmp_path: Path, events: int, code: int, reported: str) -> None:
    """Every row may be right, and too few of them."""
    write_tables(tmp_path, max(events, 20), 0)
    if not events:
        (tmp_path / "data_users.csv.gz").unlink()
        (tmp_path / "data_users.csv").write_text("user_id,purchase_event_id,event_number,conversation_id,session_id\n")
    result = CliRunner().invoke(app, ["validate", str(tmp_path)])
    assert (result.exit_code, reported in result.output) == (code, True), result.output


def test_a_description_holds_the_numbers_and_the_plots_it_names(tmp_path: Path) -> None:
    """Of a world, and of one without conversations."""
    write_tables(tmp_path / "world", 60, 0)
    result = CliRunner().invoke(app, ["describe", str(tmp_path / "world"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    text = (tmp_path / "out" / "description.md").read_text()
    assert "60 purchase events" in text
    named = [part.split(")")[0] for part in text.split("](")[1:]]
    assert len(named) == 5
    assert all((tmp_path / "out" / name).stat().st_size > 5_000 for name in named)


def test_names_with_dollars_are_drawn_as_they_are(tmp_path: Path) -> None:
    """No formula: not in an item, a tag or the folder's name."""
    folder = tmp_path / r"a$\b$"
    write_tables(folder, 60, 0)
    items = (folder / "items.csv").read_text().splitlines()
    (folder / "items.csv").write_text("\n".join([items[0], *(rf"{line.split(',')[0]},$5^\x for $10_" for line in items[1:])]))
    with gzip.open(folder / "data_sessions.csv.gz", "at") as file:
        file.writelines(f"more{n},1,$\\tag$\n" for n in range(500))
    result = CliRunner().invoke(app, ["describe", str(folder), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, (result.output, result.exception)
    assert r"$5^\x for $10_" in result.output


def test_no_plot_is_reported_where_there_is_nothing_to_draw(tmp_path: Path) -> None:
    """Tables without interactions."""
    write_tables(tmp_path / "world", 20, 0)
    (tmp_path / "world" / "data_users.csv.gz").unlink()
    users = "user_id,purchase_event_id,event_number,conversation_id,session_id\n"
    (tmp_path / "world" / "data_users.csv").write_text(users)
    result = CliRunner().invoke(app, ["describe", str(tmp_path / "world"), "--out", str(tmp_path / "out")])
    assert "nothing to draw" in str(result.exception)
    assert "written" not in result.output
    assert not (tmp_path / "out").exists()


def turn(speaker: str, utterance: str, acts: list[tuple[str, str, list[str]]], call: str | None = None) -> dict[str, object]:
    frame: dict[str, object] = {
        "service": "Buses_1",
        "actions": [{"act": act, "slot": slot, "values": values} for act, slot, values in acts],
    }
    return {"speaker": speaker, "utterance": utterance, "frames": [frame | ({"service_call": {"method": call}} if call else {})]}


def corpus(folder: Path, dialogues: int) -> Path:
    """Dialogues of one kind in the published form: two exchanges, then a purchase."""
    turns = [
        turn("USER", "I need a bus. To Lund!", []),
        turn("SYSTEM", "Here is one.", [("OFFER", "leaving_time", ["7"]), ("INFORM_COUNT", "count", ["1"])], "FindBus"),
        turn("USER", "Yes, two seats.", []),
        turn("SYSTEM", "Is it right?", [("OFFER_INTENT", "intent", ["BuyBusTicket"]), ("CONFIRM", "travelers", ["2"])]),
        turn("USER", "It is.", []),
        turn("SYSTEM", "You have bought it.", [("NOTIFY_SUCCESS", "", [])], "BuyBusTicket"),
        turn("USER", "Thanks.", []),
    ]
    intents = [{"name": "FindBus", "is_transactional": False}, {"name": "BuyBusTicket", "is_transactional": True}]
    (folder / "schema.json").write_bytes(msgspec.json.encode([{"service_name": "Buses_1", "intents": intents}]))
    dialogues_json = [{"dialogue_id": f"1_{number}", "turns": turns} for number in range(dialogues)]
    (folder / "dialogues_001.json").write_bytes(msgspec.json.encode(dialogues_json))
    return folder


def test_dialogues_become_tables_by_the_rules_and_never_tell_the_purchase(tmp_path: Path) -> None:
    """Every exchange through one channel only; nothing of what was said or logged once the item was bought."""
    arguments = ["import", "sgd", str(corpus(tmp_path, 40)), "--seed", "3", "--out"]
    result = CliRunner().invoke(app, [*arguments, str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "40 purchase events" in result.output
    tables = read_tables(tmp_path / "out")
    assert list(tables.items.values()) == ["Buses_BuyBusTicket"]
    actions = {
        (("call", "buses", "find", "bus"), ("buses", "leaving", "time", "offer"), ("buses", "count", "inform")),
        (("buses", "buy", "bus", "ticket", "offer", "intent"), ("buses", "travelers", "confirm")),
    }
    assert {tuple(session) for session in tables.sessions.values()} == actions
    assert {tuple(said) for said in tables.conversations.values()} <= {
        (("user", "I need a bus."), ("user", "To Lund!"), ("agent", "Here is one.")),
        (("user", "Yes, two seats."), ("agent", "Is it right?")),
        (("user", "It is."),),
    }
    assert CliRunner().invoke(app, [*arguments, str(tmp_path / "again")]).exit_code == 0
    for name in ("data_users.csv.gz", "data_sessions.csv.gz", "data_conversations_text.csv.gz", "source.csv.gz"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_folder_that_is_no_corpus_is_refused(tmp_path: Path) -> None:
    """With what is missing."""
    refused = CliRunner().invoke(app, ["import", "sgd", str(tmp_path), "--out", str(tmp_path / "out")]).exception
    assert "dialogues_*.json" in str(refused)
    corpus(tmp_path, 1)
    (tmp_path / "dialogues_001.json").write_text("[{}]")
    refused = CliRunner().invoke(app, ["import", "sgd", str(tmp_path), "--out", str(tmp_path / "out")]).exception
    assert "dialogues_001.json is not a file of dialogues" in str(refused)

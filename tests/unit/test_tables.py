"""The paper's layout, read and checked: each fault is named with file, row and reason; tables as events keep their order."""

import gzip
from pathlib import Path

import msgspec
import pytest

from stream.core.events import Click, Eligibility, Purchase, Transcript
from training.table_events import item_events, user_events
from training.tables import TableError, read_tables

GOOD = {
    "data_users": "user_id,purchase_event_id,event_number,conversation_id,session_id\nu,1,3,,s1\nu,1,4,c1,\nu,2,7,,s1\nu,2,9,,s2\n",
    "data_sessions": 'session_id,action_number,action_tags\ns1,2,"b,c"\ns1,1,a\ns2,1,d\n',
    "data_conversations_text": "conversation_id,sentence_number,sentence_speaker,sentence\nc1,1,user,Hello\nc1,2,agent,Hi\n",
    "data_purchase_events": "purchase_event_id,item_id\n1,x\n2,y\n",
    "data_post_filter": "purchase_event_id,item_id\n1,x\n1,y\n2,y\n",
    "items": "item_id,name\nx,Ex\ny,Why\n",
}


def write(folder: Path, **changes: str) -> Path:
    for name, text in (GOOD | changes).items():
        (folder / f"{name}.csv").write_text(text)
    return folder


def test_tables_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    """Rows may stand in any order; files may be gzipped."""
    write(tmp_path)
    plain = tmp_path / "data_sessions.csv"
    (tmp_path / "data_sessions.csv.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    tables = read_tables(tmp_path)
    assert tables.sessions["s1"] == [("a",), ("b", "c")]
    assert tables.conversations["c1"] == [("user", "Hello"), ("agent", "Hi")]
    assert tables.allowed == {1: {"x", "y"}, 2: {"y"}}


@pytest.mark.parametrize(
    ("table", "text", "said"),
    [
        ("data_users", GOOD["data_users"] + "u,1,5,c1,s1\n", "row 6: exactly one of"),
        ("data_users", GOOD["data_users"] + "u,1,5,,\n", "row 6: exactly one of"),
        ("data_users", GOOD["data_users"] + "u,3,5,,s1\n", "purchase event 3 is not in"),
        ("data_users", GOOD["data_users"] + "u,1,5,,s9\n", "session s9 is not in"),
        ("data_users", GOOD["data_users"] + "u,1,5,c9,\n", "conversation c9 is not in"),
        ("data_users", GOOD["data_users"] + "u,1,4,,s1\n", "event_number 4 stands twice"),
        ("data_users", "user_id,purchase_event_id\nu,1\n", "column event_number is missing"),
        ("data_sessions", GOOD["data_sessions"] + "s2,1,e\n", "row 5: action_number 1 stands twice"),
        ("data_purchase_events", GOOD["data_purchase_events"] + "2,z\n", "item z, which is not in items"),
        ("data_purchase_events", GOOD["data_purchase_events"] + "2,x\n", "its filter does not allow"),
    ],
)
def test_a_fault_is_named_with_file_row_and_reason(tmp_path: Path, table: str, text: str, said: str) -> None:
    """The first one found."""
    with pytest.raises(TableError, match=said):
        read_tables(write(tmp_path, **{table: text}))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """With both names it could have."""
    write(tmp_path)
    (tmp_path / "items.csv").unlink()
    with pytest.raises(TableError, match=r"neither items\.csv nor items\.csv\.gz"):
        read_tables(tmp_path)


def test_events_keep_the_order_of_the_tables_and_tell_shared_interactions_once(tmp_path: Path) -> None:
    """Interactions before their purchase, the filter just before it; session s1 is shared by both purchases."""
    tables = read_tables(write(tmp_path))
    told = list(user_events(tables))
    assert [event.role for event in told] == [
        "clicks", "clicks", "transcripts", "eligibility", "purchases", "clicks", "eligibility", "purchases",
    ]  # fmt: skip
    times = [event.at_ms for event in told]
    first, second = times[4], times[7]
    assert first < second
    assert times[:4] == sorted(times[:4])
    assert max(times[:4]) < first
    assert max(times[5:7]) < second
    clicks = [msgspec.json.decode(event.value, type=Click) for event in told if event.role == "clicks"]
    assert [click.tags for click in clicks] == [("a",), ("b", "c"), ("d",)]
    assert msgspec.json.decode(told[2].value, type=Transcript).sentences[0].speaker == "customer"
    assert msgspec.json.decode(told[6].value, type=Eligibility).excluded == ("x",)
    assert msgspec.json.decode(told[7].value, type=Purchase).items == ("y",)
    assert [event.key for event in item_events(tables)] == ["x", "y"]

"""Tables in the paper's layout: each fault is reported with file, row and reason; conversion to events keeps the order."""

import gzip
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.core.events import Click, Eligibility, EncodedCall, Item, Purchase, Transcript, to_milliseconds
from stream.core.interactions import Conversation, Session
from stream.core.records import Batch, PlainRecord
from training.datasets.examples_from_tables import examples_of
from training.datasets.tables.reader import InteractionRow, TableError, Tables, problems_of, read_tables
from training.datasets.tables.to_events import item_events, user_events

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
    """Rows may be in any order; files may be gzipped."""
    write(tmp_path)
    plain = tmp_path / "data_sessions.csv"
    (tmp_path / "data_sessions.csv.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    tables = read_tables(tmp_path)
    assert tables.sessions["s1"] == [("a",), ("b", "c")]
    assert tables.conversations["c1"] == [("user", "Hello"), ("agent", "Hi")]
    assert tables.allowed == {1: {"x", "y"}, 2: {"y"}}


@pytest.mark.parametrize(
    ("table", "text", "message"),
    [
        ("data_users", GOOD["data_users"] + "u,1,5,c1,s1\n", "row 6: exactly one of"),
        ("data_users", GOOD["data_users"] + "u,1,5,,\n", "row 6: exactly one of"),
        ("data_users", GOOD["data_users"] + "u,3,5,,s1\n", "purchase event 3 is not in"),
        ("data_users", GOOD["data_users"] + "u,1,5,,s9\n", "session s9 is not in"),
        ("data_users", GOOD["data_users"] + "u,1,5,c9,\n", "conversation c9 is not in"),
        ("data_users", GOOD["data_users"] + "u,1,4,,s1\n", "event_number 4 occurs twice"),
        ("data_users", "user_id,purchase_event_id\nu,1\n", "column event_number is missing"),
        ("data_sessions", GOOD["data_sessions"] + "s2,1,e\n", "row 5: action_number 1 occurs twice"),
        (
            "data_purchase_events",
            GOOD["data_purchase_events"] + "2,z\n",
            r"events\.csv, row 4: event 2 bought item z, which is not in",
        ),
        (
            "data_purchase_events",
            GOOD["data_purchase_events"] + "2,x\n",
            r"csv, row 4: event 2 bought item x, which its filter does",
        ),
        ("data_users", GOOD["data_users"] + "v,1,5,,s1\n", "row 6: purchase event 1 belongs to user u in another row"),
        ("data_users", GOOD["data_users"] + "u,one,5,,s1\n", "row 6: purchase_event_id is not a whole number"),
        ("data_users", GOOD["data_users"] + "u,1\n", "row 6: has 2 values, the header 5 columns"),
        ("data_sessions", GOOD["data_sessions"] + "s2,-1,e\n", "row 5: action_number '-1' is not a whole number"),
        ("data_conversations_text", GOOD["data_conversations_text"] + "c1,3,robot,Hi\n", "row 4: sentence_speaker is 'robot'"),
        ("data_conversations_text", GOOD["data_conversations_text"] + "c2,1,user, \n", "conversation c2 has no text"),
        (
            "data_post_filter",
            GOOD["data_post_filter"] + "1,z\n",
            r"filter\.csv, row 5: event 1 allows item z, which is not in items",
        ),
        ("data_post_filter", GOOD["data_post_filter"] + "7,x\n", r"filter\.csv, row 5: event 7 is not in data_purchase_events"),
        ("data_users", GOOD["data_users"] + "é" * 65 + ",2,5,,s1\n", "row 6: user_id is longer than 128 bytes"),
        ("items", GOOD["items"] + ",Zed\n", "row 4: item_id is empty"),
        ("items", GOOD["items"] + "z" * 129 + ",Zed\n", "row 4: item_id is longer than 128 characters"),
        ("data_purchase_events", GOOD["data_purchase_events"] + "2," + "z" * 129 + "\n", "row 4: item_id is longer than 128"),
        ("data_purchase_events", GOOD["data_purchase_events"] + "2,y\n" * 1000, "row 1003: event 2 bought more than 1,000 items"),
        ("items", GOOD["items"] + "".join(f"{n},\n" for n in range(1000)), r"filter\.csv, row 4: event 2 excludes 1,001 items"),
    ],
)
def test_a_fault_is_reported_with_file_row_and_reason(tmp_path: Path, table: str, text: str, message: str) -> None:
    """Reading stops at the first one."""
    with pytest.raises(TableError, match=message):
        read_tables(write(tmp_path, **{table: text}))


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    """With both names that it could have."""
    write(tmp_path)
    (tmp_path / "data_sessions.csv").unlink()
    with pytest.raises(TableError, match=r"neither data_sessions\.csv nor data_sessions\.csv\.gz"):
        read_tables(tmp_path)


def test_without_a_table_of_items_those_that_occur_are_used_numbers_first(tmp_path: Path) -> None:
    """The paper's data set has no such table."""
    events, allowed = "purchase_event_id,item_id\n1,10\n2,9\n", "purchase_event_id,item_id\n1,10\n1,x\n1,²\n2,9\n"
    write(tmp_path, data_purchase_events=events, data_post_filter=allowed)
    (tmp_path / "items.csv").unlink()
    assert list(read_tables(tmp_path).items) == ["9", "10", "x", "²"]


def test_items_may_have_texts_which_become_part_of_their_events(tmp_path: Path) -> None:
    """The table is optional; a text of an item that does not exist is a fault."""
    tables = read_tables(write(tmp_path, item_texts="item_id,text\nx,what it is\n"))
    texts = [msgspec.json.decode(event.value, type=Item).text for event in item_events(tables)]
    assert texts == ["what it is" if item == "x" else None for item in tables.items]
    with pytest.raises(TableError, match=r"item_texts\.csv, row 2: item z is not in items"):
        read_tables(write(tmp_path, item_texts="item_id,text\nz,what it is\n"))


def test_ids_written_as_floats_are_read_as_whole_numbers(tmp_path: Path) -> None:
    """The paper's authors wrote such ids: columns with gaps become floats in a data frame."""
    users = "user_id,purchase_event_id,event_number,conversation_id,session_id\n1,1,1,7.0,\n1,1,2,,5.0\n"
    sessions = "session_id,action_number,action_tags\n5,1,a\n"
    sentences = "conversation_id,sentence_number,sentence_speaker,sentence\n7,1,user,Hello\n"
    tables = read_tables(write(tmp_path, data_users=users, data_sessions=sessions, data_conversations_text=sentences))
    assert [(row.conversation_id, row.session_id) for row in tables.interactions] == [("7", None), (None, "5")]


def test_every_problem_is_reported_up_to_a_limit(tmp_path: Path) -> None:
    """Reading stops at the first one, checking at the limit."""
    write(
        tmp_path,
        data_users=GOOD["data_users"] + "u,1,5,,s9\nu,x,5,,s1\n",
        data_purchase_events=GOOD["data_purchase_events"] + "2,z\n",
    )
    tables, problems = problems_of(tmp_path, 100)
    assert [(problem.row, problem.reason) for problem in problems[:2]] == [
        (6, "session s9 is not in data_sessions"),
        (7, "purchase_event_id is not a whole number"),
    ]
    assert "item z, which is not in items" in str(problems[2])
    assert len(problems) == 4
    assert tables is not None
    assert problems_of(tmp_path, 2) == (None, problems[:2])


def published(folder: Path, keywords: str, *embeddings: str) -> Path:
    """Writes the layout that the paper's authors published:

    keywords, and vectors split over numbered files in a separate folder.
    """
    write(folder, data_conversations_keyword=keywords)
    (folder / "data_conversations_text.csv").unlink()
    (folder / "data_conversations_embedding").mkdir()
    for number, text in enumerate(embeddings, start=1):
        (folder / "data_conversations_embedding" / f"data_conversations_embedding_{number}.csv").write_text(text)
    return folder


KEYWORDS = 'conversation_id,sentence_number,sentence_speaker,keywords\nc1,2,agent,"21,4"\nc1,1,user,"4,9"\nc1,3,user,\n'
HEADER = "conversation_id,sentence_number,sentence_speaker,embedding_1,embedding_2\n"


def test_keywords_and_vectors_replace_text_and_reach_the_example(tmp_path: Path) -> None:
    """A conversation may continue in the next file; its vector is the mean over its sentences."""
    published(tmp_path, KEYWORDS, HEADER + "c1,1,user,1,2\nc1,2,agent,2,4\n", HEADER + "c1,3,user,3,0\n")
    tables = read_tables(tmp_path)
    assert tables.encoded is not None
    assert tables.encoded.text_model == "tables-embedding-2"
    first, second = examples_of(tables, refuse)
    conversation = first.interactions[1]
    assert isinstance(conversation, Conversation)
    assert conversation.keywords == ("4", "9", "21")
    assert conversation.vector().tolist() == [2.0, 2.0]
    assert conversation.sentences == 3
    assert [one.modality for one in second.interactions] == ["session", "session"]


def test_keywords_alone_are_enough(tmp_path: Path) -> None:
    """Zero vectors of width 1 replace the missing ones."""
    published(tmp_path, KEYWORDS)
    conversation = examples_of(read_tables(tmp_path), refuse)[0].interactions[1]
    assert isinstance(conversation, Conversation)
    assert (conversation.keywords, conversation.vector().tolist()) == (("4", "9", "21"), [0.0])


@pytest.mark.parametrize("word", ["a\x1fb", "a" * 300])
def test_an_invalid_keyword_is_reported(tmp_path: Path, word: str) -> None:
    """Before anything is trained, with its conversation."""
    published(tmp_path, KEYWORDS.replace("21", word))
    with pytest.raises(TableError, match="a keyword of conversation c1 is longer than 64 characters, or contains U"):
        read_tables(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([HEADER + "c1,1,user,1,2\n", HEADER + "c1,1,user,1,2\n"], "_2.csv, row 2: sentence_number 1 occurs twice"),
        ([HEADER + "c1,1,user,1,2\nc1,2,user,,2\n"], "_1.csv, row 3: a value of the embedding is missing"),
        ([HEADER + "c1,1,user,1,x\n"], "_1.csv, row 2: a value of the embedding is missing, not finite or not a number"),
        ([HEADER.replace("embedding_1", "embedding_7") + "c1,1,user,1,2\n"], "column embedding_1 is missing"),
    ],
)
def test_a_fault_among_the_vectors_is_reported(tmp_path: Path, files: list[str], message: str) -> None:
    """With file and reason, and with the row where there is one."""
    with pytest.raises(TableError, match=message):
        read_tables(published(tmp_path, KEYWORDS, *files))


@pytest.mark.parametrize("embedding", [True, False])
@pytest.mark.parametrize(
    "packed",
    [
        pytest.param(b"conversation_id,sentence_number\n", id="plain"),
        pytest.param(gzip.compress(bytes(99), mtime=0)[:-9], id="cut"),
        pytest.param(gzip.compress(b"x", mtime=0)[:10] + b"\xff", id="changed"),
    ],
)
def test_a_broken_compressed_file_is_reported(tmp_path: Path, packed: bytes, embedding: bool) -> None:
    """An uncompressed file of that name, one cut short, one whose bytes were changed."""
    name = "data_conversations_embedding.csv.gz" if embedding else "data_sessions.csv.gz"
    (published(tmp_path, KEYWORDS) / name).write_bytes(packed)
    if not embedding:
        (tmp_path / "data_sessions.csv").unlink()
    with pytest.raises(TableError, match=rf"{name}, row .: cannot be read"):
        read_tables(tmp_path)


def test_tables_that_excel_wrote_are_read(tmp_path: Path) -> None:
    """They are UTF-8 with a byte order mark."""
    write(tmp_path, **{name: f"\ufeff{text}" for name, text in GOOD.items()})
    assert read_tables(tmp_path).items == {"x": "Ex", "y": "Why"}
    published(tmp_path, "\ufeff" + KEYWORDS, "\ufeff" + HEADER + "c1,1,user,1,2\n")
    assert read_tables(tmp_path).encoded is not None


def test_a_missing_numbered_file_is_reported(tmp_path: Path) -> None:
    """Some of 107 files are easily missed in a download."""
    published(tmp_path, KEYWORDS, HEADER, HEADER, HEADER)
    (tmp_path / "data_conversations_embedding" / "data_conversations_embedding_2.csv").unlink()
    with pytest.raises(TableError, match="file data_conversations_embedding_2 is missing"):
        read_tables(tmp_path)


def refuse(batch: Batch) -> list[PlainRecord]:
    raise AssertionError(f"nothing to encode in {batch.topic}")


def words_only(batch: Batch) -> list[PlainRecord]:
    """Returns encoded calls without a text encoder."""
    calls = []
    for record in batch.records:
        transcript = msgspec.json.decode(record.value or b"", type=Transcript)
        call = EncodedCall(
            transcript.user_id,
            transcript.conversation_id,
            to_milliseconds(transcript.started_at),
            to_milliseconds(transcript.ended_at or 0),
            str(transcript.event_id),
            len(transcript.sentences), bytes(4), (), "none", batch.topic, 0, 0, record.offset,
        )  # fmt: skip
        calls.append(PlainRecord(record.offset, record.timestamp, record.key, msgspec.msgpack.encode(call)))
    return calls


@pytest.mark.parametrize(("kind", "column"), [("text", "sentence"), ("keyword", "keywords")])
def test_ids_of_the_maximum_length_give_examples(tmp_path: Path, kind: str, column: str) -> None:
    """Ids are often hashes; ids composed of several of them must not become too long."""
    user, session, call = "é" * 64, "5" * 128, "c" * 128
    users = f"{user},1,1,{call},\n{user},1,2,,{session}\n{user},2,1,,s2\n"  # the second list does not continue the first
    write(
        tmp_path,
        data_users="user_id,purchase_event_id,event_number,conversation_id,session_id\n" + users,
        data_sessions=f"session_id,action_number,action_tags\n{session},1,a\n{session},2,b\ns2,1,d\n",
    )
    (tmp_path / "data_conversations_text.csv").unlink()
    sentences = f"conversation_id,sentence_number,sentence_speaker,{column}\n{call},1,user,hello\n"
    (tmp_path / f"data_conversations_{kind}.csv").write_text(sentences)
    first, second = examples_of(read_tables(tmp_path), words_only)
    assert [one.modality for one in first.interactions] == ["conversation", "session"]
    assert isinstance(first.interactions[1], Session)
    assert first.interactions[1].tag_text == "\x1fa\x1fb"
    assert (first.user_id, len(second.interactions)) == (user, 1)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.lists(st.integers(0, 14), min_size=1, max_size=12, unique=True)), min_size=1))
def test_an_example_contains_exactly_the_last_ten_interactions_that_the_tables_list(events: list[tuple[str, list[int]]]) -> None:
    """Whatever a user's purchase events share, repeat or leave out: the invented times let nothing else in."""
    rows = [
        InteractionRow(user, event, number, *((f"{user}{one}", None) if one % 3 == 0 else (None, f"{user}{one}")))
        for event, (user, listed) in enumerate(events)
        for number, one in enumerate(listed, start=1)
    ]
    names = [f"{user}{one}" for user in "ab" for one in range(15)]
    tables = Tables(
        interactions=rows,
        sessions={name: [("tag",)] * 3 for name in names},
        conversations={name: [("user", "Hello")] for name in names},
        purchases={event: ["x"] for event in range(len(events))},
        allowed={},
        items={"x": "Ex"},
    )
    examples = examples_of(tables, words_only)
    seen = [
        [one.session_id if isinstance(one, Session) else one.conversation_id for one in example.interactions]
        for example in examples
    ]
    assert [[name[1:] for name in names] for names in seen] == [[f"{user}{one}" for one in listed[-10:]] for user, listed in events]
    assert {example.revision for example in examples} == {1}


def test_without_a_filter_anything_may_be_offered(tmp_path: Path) -> None:
    """Even if a former event of the user has a filter, and a later one has one again."""
    users = "user_id,purchase_event_id,event_number,conversation_id,session_id\n" + "".join(f"u,{n},{n},,s1\n" for n in range(1, 5))
    events = "purchase_event_id,item_id\n1,y\n2,x\n3,x\n4,y\n"
    write(tmp_path, data_users=users, data_purchase_events=events, data_post_filter="purchase_event_id,item_id\n1,y\n4,y\n")
    assert [example.excluded for example in examples_of(read_tables(tmp_path), refuse)] == [("x",), (), (), ("x",)]


def test_what_a_user_bought_stays_known_where_the_tables_leave_out_old_interactions(tmp_path: Path) -> None:
    """He continues under another name there, whose history begins without interactions. The filter is no ownership."""
    users = "user_id,purchase_event_id,event_number,conversation_id,session_id\nu,1,1,,s1\nu,2,1,,s2\nu,3,1,,s2\nu,3,2,,s3\n"
    write(
        tmp_path,
        data_users=users,
        data_sessions="session_id,action_number,action_tags\ns1,1,a\ns2,1,b\ns3,1,c\n",
        data_purchase_events="purchase_event_id,item_id\n1,x\n2,y\n3,x\n",
        data_post_filter="purchase_event_id,item_id\n1,x\n2,x\n2,y\n3,x\n3,y\n",
    )
    examples = examples_of(read_tables(tmp_path), refuse)
    assert [example.owned for example in examples] == [(), ("x",), ("x", "y")]
    assert [example.ineligible for example in examples] == [("y",), (), ()]
    assert [example.user_id for example in examples] == ["u", "u~2", "u~2"]


def test_events_keep_the_order_of_the_tables_and_shared_interactions_occur_once(tmp_path: Path) -> None:
    """Interactions precede their purchase, the filter comes just before it; both purchases share s1 and c1."""
    tables = read_tables(write(tmp_path, data_users=GOOD["data_users"] + "u,2,8,c1,\n"))
    events = list(user_events(tables))
    assert [event.role for event in events] == [
        "clicks", "clicks", "transcripts", "eligibility", "purchases", "clicks", "eligibility", "purchases",
    ]  # fmt: skip
    times = [event.at_ms for event in events]
    first, second = times[4], times[7]
    assert first < second
    assert times[:4] == sorted(times[:4])
    assert max(times[:4]) < first
    assert max(times[5:7]) < second
    clicks = [msgspec.json.decode(event.value, type=Click) for event in events if event.role == "clicks"]
    assert [click.tags for click in clicks] == [("a",), ("b", "c"), ("d",)]
    assert msgspec.json.decode(events[2].value, type=Transcript).sentences[0].speaker == "customer"
    assert msgspec.json.decode(events[6].value, type=Eligibility).excluded == ("x",)
    assert msgspec.json.decode(events[7].value, type=Purchase).items == ("y",)
    assert [event.key for event in item_events(tables)] == ["x", "y"]

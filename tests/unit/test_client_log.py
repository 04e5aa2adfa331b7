"""What is written while a broker is away."""

import logging

import pytest

from stream.services.client_log import ClientLogHandler, ConnectionTrouble, Repetitions, is_connection_trouble

REFUSED = "Unable connect to node with id 1: [Errno 111] Connection refused"


def test_a_broker_that_is_away_is_one_line_one_a_minute_and_one_at_the_end() -> None:
    """Three hundred lines a second for 150 seconds become four, and the last counts what was left out."""
    trouble, lines = ConnectionTrouble(), []
    for tenth in range(1_500):
        lines += [line for _ in range(30) if (line := trouble.note(REFUSED, tenth / 10)) is not None]
        if tenth % 10 == 0:
            lines += [line for line in [trouble.look(tenth / 10)] if line is not None]
    lines += [line for second in range(150, 200) if (line := trouble.look(float(second))) is not None]
    assert len(lines) == 4
    assert REFUSED in lines[0]
    assert "for 60 s" in lines[1]
    assert "for 120 s" in lines[2]
    assert "lasted 150 s, 44999 lines" in lines[3]
    assert not trouble.is_on


def test_trouble_begins_anew_after_it_ended() -> None:
    """The second outage has its own first line, and its own count."""
    trouble = ConnectionTrouble()
    assert trouble.note(REFUSED, 0.0)
    assert trouble.look(10.0)
    assert trouble.note(REFUSED, 100.0)
    assert "0 lines" in (trouble.look(110.0) or "")


@pytest.mark.parametrize(
    "text",
    [
        REFUSED,
        "Unable to update metadata from [1]",
        "Failed fetch messages from 1: NodeNotReadyError: Attempt to send a request to node which is not ready (node id 1).",
        "Group Coordinator Request failed: NodeNotReadyError: Attempt to send a request to node which is not ready",
        "Heartbeat send request failed: RequestTimedOutError. Will retry.",
        "Marking the coordinator dead (node 1)for group isthmus-profiles.",
        "<KafkaTCPTransport [none]>: Error receiving network data closing socket",
        "<KafkaTCPTransport [none]>: Abort (KafkaConnectionError: socket disconnected)",
        "Bootstrap bootstrap-0 not ready; waiting 0.5 secs",
        "No node available for metadata refresh - backoff/retry",
    ],
)
def test_lines_of_an_outage_are_known(text: str) -> None:
    """As both clients write them."""
    assert is_connection_trouble(text)


@pytest.mark.parametrize(
    "text",
    [
        "Heartbeat failed for group isthmus-profiles because it is rebalancing",
        "Not authorized to read from topic web-clicks.",
        "Topic web-clicks not found in cluster",
        "Unexpected error while fetching data: CorruptRecordException",
    ],
)
def test_other_lines_of_the_clients_pass(text: str) -> None:
    """They say something else, and are never left out."""
    assert not is_connection_trouble(text)


def test_the_handler_writes_the_first_line_and_hands_others_on(caplog: pytest.LogCaptureFixture) -> None:
    """A hundred failures are one line; a line of another kind stays."""
    handler = ClientLogHandler(ConnectionTrouble(), lambda: 0.0)
    lines = [
        *(f"Unable connect to node with id {number}: refused" for number in range(100)),
        "Not authorized to read from topic t.",
    ]
    for text in lines:
        handler.handle(logging.makeLogRecord({"name": "aiokafka", "levelno": logging.ERROR, "levelname": "ERROR", "msg": text}))
    written = [record.getMessage() for record in caplog.records]
    assert len(written) == 2
    assert "aiokafka: Unable connect to node with id 0: refused" in written[0]
    assert written[1] == lines[-1]


def test_any_other_line_passes_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """A broker that cannot read its own disk answers each fetch with one error; the next line after a minute says how often."""
    now_s = 0.0
    handler = ClientLogHandler(ConnectionTrouble(), lambda: now_s)
    for hundredth in range(6_500):
        now_s = hundredth / 100
        handler.handle(logging.makeLogRecord(_fetch_error("CorruptRecordException")))
    assert [record.getMessage() for record in caplog.records] == [
        "Unexpected error while fetching data: CorruptRecordException",
        "Unexpected error while fetching data: CorruptRecordException (5999 lines like this were left out)",
    ]


def test_lines_that_differ_in_words_are_of_different_kinds() -> None:
    """Two topics that may not be read are two lines; two node ids are one kind."""
    repetitions = Repetitions()
    assert repetitions.note("Not authorized to read from topic clicks.", 0.0) == 0
    assert repetitions.note("Not authorized to read from topic calls.", 0.0) == 0
    assert repetitions.note("Node 1 fails", 0.0) == 0
    assert repetitions.note("Node 2 fails", 0.0) is None


def _fetch_error(name: str) -> dict[str, object]:
    text = "Unexpected error while fetching data: %s"
    return {"name": "aiokafka.consumer.fetcher", "levelno": logging.WARNING, "levelname": "WARNING", "msg": text, "args": (name,)}

"""Health: what is wrong is reported; a partition is stalled only if it has work and does not move, observed without a gap."""

import contextlib
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream import metrics_server
from stream.core.events import Reason
from stream.errors import IsthmusError
from stream.health import Beat, Health, PartitionProgress, Stalls
from stream.metrics import Metrics


def observed(stalls: Stalls, rows: list[tuple[float, int, bool]]) -> list[bool]:
    """One partition seen at times, with committed offsets and whether there is work; whether it was stalled each time."""
    found = []
    for now_s, committed, behind in rows:
        stalls.observe(now_s, {"clicks-0": PartitionProgress(committed, behind)})
        found.append(bool(stalls.stalled()))
    return found


def test_a_partition_with_work_that_commits_nothing_is_stalled() -> None:
    """From the first observation with that offset on; it is well again with the next commit."""
    rows = [(0.0, 5, True), (10.0, 5, True), (20.0, 5, True), (25.0, 5, True), (30.0, 6, True)]
    assert observed(Stalls(20, 15), rows) == [False, False, True, True, False]


def test_a_partition_without_work_is_never_stalled() -> None:
    """However long nobody sends anything; time without work does not count."""
    rows = [(10.0 * turn, 5, False) for turn in range(20)] + [(200.0, 5, True), (210.0, 5, True), (220.0, 5, True)]
    assert observed(Stalls(20, 15), rows) == [False] * 22 + [True]


def test_time_in_which_nothing_was_observed_does_not_count() -> None:
    """The broker was away, or tables were restored: a restart would not help."""
    rows = [(0.0, 5, True), (10.0, 5, True), (100.0, 5, True), (110.0, 5, True), (120.0, 5, True)]
    assert observed(Stalls(20, 15), rows) == [False, False, False, False, True]


def test_a_rebalance_forgets_what_was_observed() -> None:
    """Partitions start over."""
    stalls = Stalls(20, 15)
    assert observed(stalls, [(0.0, 5, True), (10.0, 5, True), (20.0, 5, True)])[-1]
    stalls.forget()
    assert stalls.check() is None
    assert observed(stalls, [(21.0, 5, True), (31.0, 5, True)]) == [False, False]


@given(st.lists(st.tuples(st.floats(0.1, 9), st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_whatever_is_observed_only_standing_still_with_work_is_stalled(steps: list[tuple[float, bool, bool]]) -> None:
    """By an independent model: seconds since the last moment that excuses it."""
    stalls, now_s, committed, excused_s, was_behind = Stalls(20, 10), 0.0, 0, 0.0, False
    for step_s, moves, behind in steps:
        now_s += step_s
        committed += moves
        if moves or not was_behind:
            excused_s = now_s
        was_behind = behind
        stalls.observe(now_s, {"p": PartitionProgress(committed, behind)})
        assert bool(stalls.stalled()) == (behind and now_s - excused_s >= 20)


def test_a_blocked_event_loop_is_reported() -> None:
    """After so many seconds without a beat."""
    now = [0.0]
    beat = Beat(30, lambda: now[0])
    now[0] = 30.0
    assert beat.check() is None
    now[0] = 41.0
    assert beat.check() == "has been blocked for 41 s"
    beat.beat()
    assert beat.check() is None


def answer(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as found:
            return found.status, found.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_metrics_port_tells_health_too() -> None:
    """200, or 503 with what is wrong."""
    problems: dict[str, str | None] = {"loop": None, "tables": "being restored"}
    health = Health({"loop": lambda: problems["loop"]}, {"tables": lambda: problems["tables"]})
    server, _ = Metrics().serve(0, health)
    try:
        port = server.server_port
        assert answer(port, "/livez") == (200, "ok\n")
        assert answer(port, "/readyz") == (503, "tables: being restored\n")
        problems |= {"loop": "hangs", "tables": None}
        assert answer(port, "/livez") == (503, "loop: hangs\n")
        assert answer(port, "/readyz") == (200, "ok\n")
        assert "isthmus_users" in answer(port, "/metrics")[1]
        assert answer(port, "/other")[0] == 404
        with pytest.raises(IsthmusError, match=f"port {port} is taken"):
            Metrics().serve(port, health)
    finally:
        server.shutdown()
        server.server_close()


def test_clients_that_hold_connections_open_keep_no_check_from_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest makes room for the newest, and each ends after a time, also one that goes on sending."""
    monkeypatch.setattr(metrics_server, "CLIENTS", 3)
    metrics = Metrics()
    server, _ = metrics.serve(0, host="127.0.0.1")
    idle = [socket.create_connection(("127.0.0.1", server.server_port), timeout=20) for _ in range(4)]
    try:
        assert answer(server.server_port, "/livez") == (200, "ok\n")
        assert idle[0].recv(1) == b""
        assert metrics.total("metrics_connections_closed", "crowded_out") >= 2
        monkeypatch.setattr(metrics_server, "CLIENT_S", 0.1)
        deadline = time.monotonic() + 20
        with contextlib.suppress(OSError):
            while not metrics.total("metrics_connections_closed", "slow") and time.monotonic() < deadline:
                idle[3].sendall(b"x")
                time.sleep(0.02)
        assert idle[2].recv(1) == b""
        assert answer(server.server_port, "/readyz") == (200, "ok\n")
    finally:
        for client in idle:
            client.close()
        server.shutdown()
        server.server_close()


def test_metrics_are_served_on_the_address_that_is_set() -> None:
    """One that is not this machine's is refused by the setting's name."""
    with pytest.raises(IsthmusError, match=r"health\.metrics_host"):
        Metrics().serve(0, host="192.0.2.1")
    server, _ = Metrics().serve(0, host="127.0.0.2")
    try:
        assert urllib.request.urlopen(f"{server.url}/livez", timeout=5).status == 200
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.server_port), timeout=5)
    finally:
        server.shutdown()
        server.server_close()


def test_dead_letters_stand_at_nought_before_there_are_any() -> None:
    """A burst that is a series' first value would be no increase, and no alert."""
    for reason in Reason:
        assert Metrics().registry.get_sample_value("isthmus_dead_letters_total", {"reason": reason}) == 0


def test_checks_say_which_part_is_wrong() -> None:
    """All of them."""
    checks: Mapping[str, object] = {"a": lambda: "x", "b": lambda: None, "c": lambda: "y"}
    assert Health.wrong(checks) == ["a: x", "c: y"]  # type: ignore[arg-type]

"""The audit log: who opened whose profile, with a hash that only the key attributes, and nothing shown that could not be noted."""

import errno
import hashlib
import hmac
import json
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from stream.api.audit import AuditFile
from stream.errors import IsthmusError
from stream.process_settings import StepSettings
from tests import api, oidc
from tests.api import Replica, replica

USER = "c-17 & Söhne"
PATH = "/v1/users/c-17%20%26%20S%C3%B6hne"
SUBJECT = 'agent"\n7'


def person() -> dict[str, str]:
    """The header of an agent; made when it is sent, for tokens expire within minutes."""
    return {"Authorization": f"Bearer {oidc.token(sub=SUBJECT)}"}


@pytest.fixture
def audit_file(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
async def running(tmp_path: Path, audit_file: Path) -> AsyncIterator[Replica]:
    log = api.new_log()
    api.put_state(log, USER)
    jwks = str(oidc.write_keys(tmp_path / "jwks.json", rsa=oidc.RSA))
    async with replica(log, tmp_path / "store", oidc_jwks=jwks, audit_file=audit_file, **oidc.OIDC) as started:
        yield started


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def put_folder_in_place_of(path: Path) -> None:
    path.unlink()
    path.mkdir()


def take_folder_away(path: Path) -> None:
    path.rmdir()


def counted(running: Replica, outcome: str) -> float:
    return float(running.parts.api.metrics.counter("api_audit_lines", outcome)._value.get())


async def test_a_persons_look_is_noted_with_a_hash_of_the_user(running: Replica, audit_file: Path) -> None:
    """Subject, time and HMAC in one line of JSON, whatever the subject holds; the id itself nowhere. Unknown users too."""
    assert (await running.get(f"{PATH}/profile", headers=person())).status_code == 200
    assert (await running.get("/v1/users/nobody/profile", headers=person())).status_code == 404
    key = StepSettings().erasure_key.get_secret_value().encode()
    first, second = lines(audit_file)
    assert first["user"] == hmac.new(key, USER.encode(), hashlib.sha256).hexdigest() != second["user"]
    assert (first["who"], first["credential"], first["opened"]) == (SUBJECT, "person", "profile")
    assert first["at"].endswith("+00:00")
    assert "c-17" not in str(lines(audit_file))


def test_others_do_not_read_the_file(audit_file: Path) -> None:
    """It says who works when."""
    AuditFile(audit_file)
    assert audit_file.stat().st_mode & 0o007 == 0


async def test_whatever_a_person_opens_is_noted_and_of_keys_the_profiles(running: Replica, audit_file: Path) -> None:
    """Lists too: they say as much. A site's backend reads lists on behalf of their users."""
    await running.get(f"{PATH}/recommendations", headers=person())
    await running.client.post("/v1/users/batch", json={"users": [USER, "other"]}, headers=person())
    running.parts.api.changes.ended = True
    await running.get(f"{PATH}/events", headers=person())
    assert [line["opened"] for line in lines(audit_file)] == ["list", "list", "list", "stream"]
    for path in ("recommendations", "events", "profile"):
        await running.get(f"{PATH}/{path}")
    assert [(line["credential"], line["opened"]) for line in lines(audit_file)[4:]] == [("key", "profile")]


async def test_a_refused_request_is_not_a_look(running: Replica, audit_file: Path) -> None:
    """Without the scope nothing was shown."""
    without = {"Authorization": f"Bearer {oidc.token(scope='openid feedback')}"}
    assert (await running.get(f"{PATH}/profile", headers=without)).status_code == 403
    assert lines(audit_file) == []


async def test_what_cannot_be_noted_is_not_shown(running: Replica, audit_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """503, counted and logged; once the file can be written, it goes on."""
    put_folder_in_place_of(audit_file)
    refused = await running.get(f"{PATH}/profile", headers=person())
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "10")
    assert "api.audit_file" in caplog.text
    assert counted(running, "failed") == 1
    take_folder_away(audit_file)
    assert (await running.get(f"{PATH}/profile", headers=person())).status_code == 200
    assert len(lines(audit_file)) == counted(running, "written") == 1


async def test_a_key_that_everybody_knows_is_named_at_the_start(running: Replica, caplog: pytest.LogCaptureFixture) -> None:
    """With it anybody can tell whom a hash means."""
    del running
    (warning,) = [record.message for record in caplog.get_records("setup") if "audit log" in record.message]
    assert "ISTHMUS_STEP__ERASURE_KEY" in warning


async def test_without_a_file_the_log_of_the_process_has_the_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Under a logger of its own."""
    caplog.set_level(logging.INFO, "isthmus.audit")
    log = api.new_log()
    api.put_state(log, USER)
    async with replica(log, tmp_path) as running:
        await running.get(f"{PATH}/profile")
    (line,) = [json.loads(record.message) for record in caplog.records if record.name == "isthmus.audit"]
    assert (line["credential"], line["opened"]) == ("key", "profile")


async def test_a_file_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    """And is named."""
    with pytest.raises(IsthmusError, match=r"api\.audit_file"):
        async with replica(api.new_log(), tmp_path / "store", audit_file=tmp_path / "missing" / "audit.jsonl"):
            pass


def test_a_line_that_a_full_disk_cut_spoils_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts as not written, and the next begins on a line of its own."""
    path = tmp_path / "audit.jsonl"
    file, write = AuditFile(path), os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda number, content: write(number, content[:4]))
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            file.append("first")
    file.append("second")
    file.append("third")
    assert path.read_text() == "firs\nsecond\nthird\n"

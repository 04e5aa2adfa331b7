"""The client of a schema registry: what a process knows stays known, and every trouble is named as what it is."""

import logging
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from stream.connection_settings import SchemaRegistrySettings
from stream.core.events import UndecodableError
from stream.errors import IsthmusError
from stream.formats.registry import RegistryError, SchemaRegistry, UnknownSchemaError
from stream.formats.schemas import DENIED_S, Schemas
from stream.services.process import step_config
from stream.settings import Settings, load
from tests.schema_registry import FakeRegistry
from tests.system.certificates import Authority


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as server:
        yield server


def test_a_schema_is_asked_for_once_and_kept_for_starts_without_the_registry(registry: FakeRegistry, tmp_path: Path) -> None:
    number = registry.add("string")
    first = Schemas(registry.client(), tmp_path)
    threads = [threading.Thread(target=first.settle, args=([number],)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert registry.asked == [f"/schemas/ids/{number}"]
    registry.go()
    later = Schemas(registry.client(), tmp_path)
    later.settle([number])
    found = later.decoder(number)
    assert found is not None
    assert found[1](b"\x02a") == b'"a"'


def test_what_is_kept_of_another_registry_or_broken_is_not_read(registry: FakeRegistry, tmp_path: Path) -> None:
    number = registry.add("string")
    Schemas(registry.client(), tmp_path).settle([number])
    with FakeRegistry() as other:
        other.add("long")
        schemas = Schemas(other.client(), tmp_path)
        schemas.settle([number])
        assert (schemas.decoder(number) or ("", lambda _: b""))[1](b"\x02") == b"1"
    for file in tmp_path.rglob("*.json"):
        file.write_bytes(b'{"type":')
    again = Schemas(registry.client(), tmp_path)
    again.settle([number])
    assert registry.asked == [f"/schemas/ids/{number}"] * 2
    assert not list(tmp_path.rglob("*.part"))


def test_a_folder_that_cannot_be_written_costs_nothing_but_a_line(
    registry: FakeRegistry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    number = registry.add("string")
    schemas = Schemas(registry.client(), tmp_path / "file")
    with caplog.at_level(logging.WARNING):
        schemas.settle([number])
    assert schemas.decoder(number) is not None
    assert "a start needs the registry" in caplog.text


@pytest.mark.parametrize(
    ("kind", "length", "why"),
    [
        ("AVRO", 1, "it refers to n0 in a circle"),
        ("PROTOBUF", 3, "it refers to n1 in a circle"),
        ("AVRO", 1_001, "it refers to more than 1000 others"),
    ],
)
def test_references_without_an_end_cost_the_records_of_their_schema_only(
    registry: FakeRegistry, caplog: pytest.LogCaptureFixture, kind: str, length: int, why: str
) -> None:
    """A registry should refuse a circle. The schema is settled: its partition does not wait, and its records are dead letters."""
    for number in range(length):
        following = (number + 1) % length
        registry.add("string", f"s{number}", kind, [(f"n{following}", f"s{following}")])
    schemas = registry.known()
    schemas.settle([1])
    assert len(registry.asked) <= length + 1
    assert f"cannot be used ({why}): records with it become dead letters" in caplog.text
    found = schemas.decoder(1)
    assert found is not None
    assert found[0] == kind
    with pytest.raises(UndecodableError, match=why):
        found[1](b"\x02a")


def test_what_several_schemas_refer_to_is_asked_for_once(registry: FakeRegistry) -> None:
    """And comes before them. A deep chain is as good as a short one."""
    registry.add("string", "root", references=[("left", "left"), ("right", "right")])
    for name in ("left", "right"):
        registry.add("string", name, references=[("n0", "n0")])
    for number in range(400):
        registry.add("string", f"n{number}", references=[(f"n{number + 1}", f"n{number + 1}")] if number < 399 else [])
    names = [one.name for one in registry.client().schema(1).references]
    assert names == [*(f"n{number}" for number in reversed(range(400))), "left", "right"]


def test_a_denial_holds_for_a_minute(registry: FakeRegistry) -> None:
    """Then it is asked again: a registry's replica may be behind."""
    now = [1_000.0]
    counted: list[str] = []
    schemas = Schemas(registry.client(), None, counted.append, lambda: now[0])
    schemas.settle([1])
    assert schemas.is_settled(1)
    assert schemas.decoder(1) is None
    registry.add("string")
    schemas.settle([1])
    assert schemas.decoder(1) is None
    now[0] += DENIED_S
    schemas.settle([1])
    assert schemas.decoder(1) is not None
    assert counted == ["denied", "fetched"]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((404, b"<html>not found</html>"), "no schema registry with Confluent's API (it answers 404): check schema_registry.url"),
        ((404, b'{"error_code":404,"message":"HTTP 404 Not Found"}'), "cannot answer now (404)"),
        ((200, b"<html>"), "no schema registry .* (what it answers is no registry's answer)"),
        ((200, b'{"schema":7}'), "no schema registry"),
        ((302, b""), "it answers 302"),
        ((401, b'{"error_code":40101}'), "refuses us (401): check schema_registry.username and password"),
        ((403, b"{}"), "refuses us (403)"),
        ((500, b'{"error_code":50001}'), "cannot answer now (50001)"),
        ((503, b""), "cannot answer now (503)"),
        ((429, b""), "it answers 429"),
    ],
)
def test_only_the_registry_itself_denies_a_schema(registry: FakeRegistry, answer: tuple[int, bytes], error: str) -> None:
    """Anything else is trouble that may end: the records wait, and none becomes a dead letter."""
    registry.answer = answer
    counted: list[str] = []
    with pytest.raises(RegistryError) as raised:
        Schemas(registry.client(), None, counted.append).settle([7])
    for part in error.split(" .* "):
        assert part in str(raised.value)
    assert counted == ["failed"]


def test_a_registry_that_is_away_or_slow_is_named() -> None:
    with FakeRegistry() as server:
        client = server.client()
    with pytest.raises(RegistryError, match="does not answer"):
        client.schema(1)


def test_a_missing_schema_is_denied(registry: FakeRegistry) -> None:
    with pytest.raises(UnknownSchemaError):
        registry.client().schema(7)


def test_user_and_password_let_us_in() -> None:
    with FakeRegistry(("isthmus", "secret of a test")) as server:
        number = server.add("string")
        assert server.client().schema(number).text == '"string"'
        wrong = SchemaRegistry(server.settings(password="no"))
        with pytest.raises(RegistryError, match="refuses us") as raised:
            wrong.schema(number)
    assert "no" not in str(raised.value).split()


def test_tls_checks_the_registry_and_shows_our_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.ca_file)
    context.load_cert_chain(authority.issue("registry"))
    context.verify_mode = ssl.CERT_REQUIRED
    with FakeRegistry(tls=context) as server:
        number = server.add("string")
        own: dict[str, Any] = {"ca_file": authority.ca_file, "certificate_file": authority.issue("isthmus")}
        assert SchemaRegistry(server.settings(**own)).schema(number).type == "AVRO"
        with pytest.raises(RegistryError, match="certificate"):
            SchemaRegistry(server.settings()).schema(number)
        with pytest.raises(RegistryError):
            SchemaRegistry(server.settings(ca_file=authority.ca_file)).schema(number)
        with pytest.raises(IsthmusError, match=r"schema_registry.ca_file .* is no readable PEM file"):
            SchemaRegistry(server.settings(ca_file=tmp_path / "none.pem")).schema(number)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"username": "u", "password": "p"}, "username and password would not be used without url"),
        ({"url": "registry:8081"}, "url must be https://host:port"),
        ({"url": "https://user:secret-word@host"}, "url must be https://host:port"),
        ({"url": "http://host", "ca_file": "/ca.pem"}, "ca_file would not be used with http://"),
        ({"url": "https://host", "username": "u"}, "ISTHMUS_SCHEMA_REGISTRY__PASSWORD_FILE"),
        ({"url": "https://host", "key_file": "/k.pem"}, "need certificate_file"),
    ],
)
def test_settings_that_do_not_go_together_say_what_to_write(given: dict[str, str], error: str) -> None:
    with pytest.raises(ValidationError) as raised:
        SchemaRegistrySettings(**given)
    message = raised.value.errors()[0]["msg"]
    assert error in message
    assert "secret-word" not in message


def test_a_format_without_a_registry_or_its_library_names_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISTHMUS_FORMATS__CLICKS", "avro")
    with pytest.raises(IsthmusError, match=r"formats.clicks: avro needs schema_registry.url \(ISTHMUS_SCHEMA_REGISTRY__URL\)"):
        step_config(load())
    monkeypatch.setenv("ISTHMUS_SCHEMA_REGISTRY__URL", "http://127.0.0.1:9")
    assert step_config(load()).decoders
    monkeypatch.setitem(__import__("sys").modules, "fastavro", None)
    with pytest.raises(IsthmusError, match=r"formats.clicks: avro needs fastavro: pip install 'isthmus\[formats\]'"):
        step_config(load())


def test_a_format_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISTHMUS_FORMATS__CLICKS", "thrift")
    with pytest.raises(IsthmusError, match=r"formats.clicks .*'json', 'avro', 'json-schema' or 'protobuf'"):
        load()


def test_the_password_may_be_a_file_and_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret-word\n")
    monkeypatch.setenv("ISTHMUS_SCHEMA_REGISTRY__URL", "http://127.0.0.1:9")
    monkeypatch.setenv("ISTHMUS_SCHEMA_REGISTRY__USERNAME", "u")
    monkeypatch.setenv("ISTHMUS_SCHEMA_REGISTRY__PASSWORD_FILE", str(tmp_path / "password"))
    found = load()
    assert found.schema_registry.password is not None
    assert found.schema_registry.password.get_secret_value() == "secret-word"
    assert "secret-word" not in str(found)
    assert Settings().formats.of("clicks") == "json"

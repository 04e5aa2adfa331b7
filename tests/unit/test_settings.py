"""Settings: from file and environment, with errors that name what is wrong and where; mappings that adapt a producer's fields."""

from pathlib import Path

import pytest

from stream.connection_settings import Section
from stream.core.events import Click, Reason, Rejection, Source
from stream.core.parsing import parse
from stream.errors import IsthmusError
from stream.services.process import field_mapper, step_config
from stream.settings import Settings, TimeSettings, leaves, load


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without a settings file."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_variables_win_over_the_file_and_the_file_over_defaults(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And each value's origin is shown."""
    lines = ("[kafka]", 'bootstrap = "file:1"', "[worker]", 'name = "file-worker"', "[mapping.clicks]", 'user_id = "id"')
    (here / "isthmus.toml").write_text("\n".join(lines))
    monkeypatch.setenv("ISTHMUS_KAFKA__BOOTSTRAP", "variable:2")
    settings = load()
    assert (settings.kafka.bootstrap, settings.worker.name, settings.step.list_length) == ("variable:2", "file-worker", 5)
    origins = {name: origin for name, _, origin in leaves(settings)}
    assert origins["kafka.bootstrap"] == "ISTHMUS_KAFKA__BOOTSTRAP"
    assert origins["worker.name"] == origins["mapping.clicks"] == "isthmus.toml"
    assert origins["encoder.name"] == "default"
    assert origins["step.list_length"] == "default"


def test_a_wrong_value_is_named_with_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """And with what was expected."""
    monkeypatch.setenv("ISTHMUS_TOPICS__PARTITIONS", "many")
    with pytest.raises(IsthmusError, match=r"topics.partitions \(ISTHMUS_TOPICS__PARTITIONS.*integer"):
        load()


def test_an_unknown_setting_in_the_file_is_an_error(here: Path) -> None:
    """A misspelt one would be silently without effect."""
    (here / "isthmus.toml").write_text("[worker]\nnmae = 'x'\n")
    with pytest.raises(IsthmusError, match=r"worker\.nmae"):
        load()


def test_a_file_that_is_no_toml_is_an_error(here: Path) -> None:
    """It names the file."""
    (here / "isthmus.toml").write_text("[worker\n")
    with pytest.raises(IsthmusError, match=r"isthmus.toml is not valid TOML"):
        load()


def test_secrets_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in what `isthmus settings` prints."""
    monkeypatch.setenv("ISTHMUS_STEP__ERASURE_KEY", "top-secret")
    settings = load()
    assert "top-secret" not in str(leaves(settings))
    assert step_config(settings).erasure_key == b"top-secret"


def test_an_erasure_key_of_no_bytes_or_too_many_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 7693 takes 1 to 64."""
    monkeypatch.setenv("ISTHMUS_STEP__ERASURE_KEY", "x" * 65)
    with pytest.raises(IsthmusError, match=r"setting step\.erasure_key \(ISTHMUS_STEP__ERASURE_KEY.*1 to 64 bytes"):
        load()


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("ISTHMUS_API__TOKEN_SECRETS", "api.token_secrets"),
        ("ISTHMUS_API__PLACEMENTS", "api.placements"),
        ("ISTHMUS_MAPPING__CLICKS", "mapping.clicks"),
        ("ISTHMUS_API", "api"),
    ],
)
def test_a_variable_that_must_be_json_is_named_and_the_file_is_not_blamed(
    variable: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The value is not quoted: it may be a secret."""
    monkeypatch.setenv(variable, "plain text")
    with pytest.raises(IsthmusError) as refused:
        load()
    assert str(refused.value).startswith(f"setting {name} ({variable}): is not JSON; write it as ")
    assert "isthmus.toml" not in str(refused.value)
    assert "plain text" not in str(refused.value)


@pytest.mark.parametrize("role", [name for name in TimeSettings.model_fields if name.endswith("_earliest")])
def test_a_day_in_the_future_is_not_the_earliest_plausible_one(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every event would be a dead letter."""
    monkeypatch.setenv(f"ISTHMUS_TIMES__{role.upper()}", "9000-01-01")
    with pytest.raises(IsthmusError, match=rf"setting times\.{role} \(ISTHMUS_TIMES__{role.upper()}.*past"):
        load()


FIELDS = {"user_id": "customer.id", "occurred_at": "time", "tags": "[page.section, page.object, action]"}


def test_a_mapping_adapts_a_producers_fields() -> None:
    """As the README shows it."""
    theirs = b'{"customer":{"id":"c-1"},"time":"2026-01-02T03:04:05Z","page":{"section":"car","object":"price"},"action":"view"}'
    click = parse(Source.CLICK, theirs, field_mapper("mapping.clicks", FIELDS))
    assert isinstance(click, Click)
    assert (click.user_id, click.tags) == ("c-1", ("car", "price", "view"))


@pytest.mark.parametrize(
    ("value", "reason"),
    [(b"{", Reason.NOT_JSON), (b"[1]", Reason.INVALID), (b'{"customer":{"id":7}}', Reason.INVALID)],
)
def test_what_a_mapping_cannot_adapt_is_a_rejection(value: bytes, reason: Reason) -> None:
    """Never an exception."""
    found = parse(Source.CLICK, value, field_mapper("mapping.clicks", FIELDS))
    assert isinstance(found, Rejection)
    assert found.reason == reason


def test_a_wrong_expression_is_named() -> None:
    """At the start, not at the first event."""
    with pytest.raises(IsthmusError, match=r"mapping.clicks.tags: '\[' is not a JMESPath expression"):
        field_mapper("mapping.clicks", {"tags": "["})


def test_every_setting_has_a_description() -> None:
    """`isthmus settings` and the reference page are all that an operator has to go by."""
    sections = [field.annotation for field in Settings.model_fields.values()]
    fields = [
        (section.__name__, name, field)
        for section in sections
        if isinstance(section, type) and issubclass(section, Section)
        for name, field in section.model_fields.items()
    ]
    assert len(fields) > 40
    assert [f"{section}.{name}" for section, name, field in fields if not field.description] == []

"""Settings: from file and environment, with errors that name what is wrong and where; mappings that adapt a producer's fields."""

from pathlib import Path
from typing import Any

import pytest

from stream.connection_settings import Section
from stream.core.events import Click, Reason, Rejection, Source
from stream.core.parsing import parse
from stream.errors import IsthmusError
from stream.services.process import field_mapper, step_config
from stream.settings import Settings, TimeSettings, leaves, load, with_changes


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


def test_an_erasure_keeps_old_events_out_for_ever_unless_a_bound_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound that an earlier version's settings hold is still obeyed."""
    assert step_config(load()).marker_retention_ms is None
    monkeypatch.setenv("ISTHMUS_STEP__MARKER_RETENTION_S", "3196800")
    assert step_config(load()).marker_retention_ms == 37 * 86_400_000


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


def test_a_file_that_is_not_utf8_is_named(here: Path) -> None:
    """It may be perfect TOML in another encoding."""
    (here / "isthmus.toml").write_bytes("host = 'Zürich'".encode("latin-1"))
    with pytest.raises(IsthmusError, match=r"isthmus\.toml is not UTF-8 \(byte 9\): save it in UTF-8"):
        load()


ALL_SETTINGS = [
    (name, key)
    for name, field in Settings.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    for key in field.annotation.model_fields
]


@pytest.mark.parametrize(("section", "key"), ALL_SETTINGS)
def test_a_wrong_value_of_any_setting_is_named_with_the_file_or_the_option_that_it_is_from(
    section: str, key: str, here: Path
) -> None:
    """A value of a type that nothing takes; the message says what is expected, and names no other place."""
    (here / "isthmus.toml").write_text(f"[{section}]\n{key} = [{{ x = 1 }}]\n")
    with pytest.raises(IsthmusError) as refused:
        load()
    line = str(refused.value).splitlines()[0]
    assert line.startswith(f"setting {section}.{key}")
    assert "(isthmus.toml): " in line
    assert line.split("): ")[1]
    (here / "isthmus.toml").unlink()
    with pytest.raises(IsthmusError) as refused:
        with_changes(load(), section, **{key: [{"x": 1}]})
    line = str(refused.value).splitlines()[0]
    assert line.startswith(f"setting {section}.{key}")
    assert f"(--{key.replace('_', '-')}" in line
    assert "isthmus.toml" not in line


def takes_any_text(section: str, key: str) -> bool:
    annotation: Any = Settings.model_fields[section].annotation
    schema = annotation.model_json_schema()["properties"][key]
    texts = [one for one in schema.get("anyOf", [schema]) if one.get("type") == "string"]
    return any(one.get("format") not in {"path", "date"} and not one.keys() & {"pattern", "enum"} for one in texts)


@pytest.mark.parametrize(("section", "key"), [place for place in ALL_SETTINGS if not takes_any_text(*place)])
def test_a_wrong_variable_of_any_setting_is_named_and_the_file_is_not_blamed(
    section: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No number, word, list or path of this machine."""
    variable = f"ISTHMUS_{section}__{key}".upper()
    monkeypatch.setenv(variable, "wrong://x")
    with pytest.raises(IsthmusError) as refused:
        load()
    assert str(refused.value).startswith(f"setting {section}.{key} ({variable}): ")
    assert "isthmus.toml" not in str(refused.value)


@pytest.mark.parametrize(
    ("section", "changes", "said"),
    [
        ("worker", {"metrics_port": 99_999}, r"worker\.metrics_port \(--metrics-port\): must be less than or equal to 65535"),
        ("api", {"port": -1}, r"api\.port \(--port\): must be greater than or equal to 0"),
        ("training", {"min_judged": 0}, r"training\.min_judged \(--min-judged\): must be greater than or equal to 1"),
    ],
)
def test_an_option_is_checked_like_a_setting(section: str, changes: dict[str, object], said: str) -> None:
    """An invalid port would end in a traceback."""
    with pytest.raises(IsthmusError, match=said):
        with_changes(load(), section, **changes)


def test_settings_that_do_not_go_together_are_both_named_with_their_origins(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One in the file, the other a variable."""
    (here / "isthmus.toml").write_text("[kafka]\nusername = 'u'\n")
    monkeypatch.setenv("ISTHMUS_KAFKA__SECURITY_PROTOCOL", "SSL")
    with pytest.raises(
        IsthmusError, match=r"kafka \(ISTHMUS_KAFKA__SECURITY_PROTOCOL, isthmus\.toml\): username .*security_protocol"
    ):
        load()


def test_a_misspelt_setting_in_the_file_is_told_the_nearest(here: Path) -> None:
    (here / "isthmus.toml").write_text("[worker]\nmetric_port = 1\n")
    with pytest.raises(IsthmusError, match=r"worker\.metric_port \(isthmus\.toml\): .*did you mean worker\.metrics_port"):
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

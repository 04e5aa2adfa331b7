"""Settings that nobody would read: variables of an unknown name are named, unknown names in the file are refused."""

import re
from pathlib import Path

import pytest

from stream.cli.settings_overrides import settings_with
from stream.errors import IsthmusError
from stream.settings import Settings, load, variables
from stream.variables import OTHER_VARIABLES, unread_variables

SOURCES = Path(__file__).parents[2] / "stream"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without a settings file."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("ISTHMUS_KAFKA_BOOTSTRAP", "ISTHMUS_KAFKA__BOOTSTRAP"),
        ("ISTHMUS_API_PORT", "ISTHMUS_API__PORT"),
        ("ISTHMUS_WORKER__NMAE", "ISTHMUS_WORKER__NAME"),
        ("ISTHMUS_WROKER__NAME", "ISTHMUS_WORKER__NAME"),
        ("ISTHMUS_STEP__LIST_LENGTH__", "ISTHMUS_STEP__LIST_LENGTH"),
        ("isthmus_cache_dri", "ISTHMUS_CACHE_DIR"),
        ("ISTHMUS_CONFIGURATION", "ISTHMUS_CONFIG"),
        ("ISTHMUS_MAPPING__CLICKS__USR_ID", "ISTHMUS_MAPPING__CLICKS__USER_ID"),
        ("ISTHMUS_ZZZ", None),
    ],
)
def test_a_variable_that_nobody_reads_is_named_with_the_nearest_that_exists(
    name: str, nearest: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stderr, by every command; the command goes on with the other settings."""
    monkeypatch.setenv(name, "8080")
    assert settings_with() == Settings()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert f"nobody reads the variable {name}: " in lines[0]
    assert (f"did you mean {nearest}?" if nearest else "`isthmus settings`") in lines[0]


def test_what_kubernetes_sets_for_a_service_is_passed_over(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of services named isthmus, isthmus-api and isthmus-kafka; it sets these variables in every container of the namespace."""
    for service in ("ISTHMUS", "ISTHMUS_API", "ISTHMUS_KAFKA"):
        for name, value in {
            "SERVICE_HOST": "10.0.0.1",
            "SERVICE_PORT": "9092",
            "SERVICE_PORT_HTTP": "9092",
            "PORT": "tcp://10.0.0.1:9092",
            "PORT_9092_TCP": "tcp://10.0.0.1:9092",
            "PORT_9092_TCP_PROTO": "tcp",
            "PORT_9092_TCP_PORT": "9092",
            "PORT_9092_TCP_ADDR": "10.0.0.1",
        }.items():
            monkeypatch.setenv(f"{service}_{name}", value)
    assert settings_with() == Settings()
    assert capsys.readouterr().err == ""


def test_every_variable_that_is_read_is_known() -> None:
    """Settings in any case, tables of mappings with their keys, sections as JSON, and those that the code reads itself."""
    read = [*variables(), "isthmus_kafka__bootstrap", "ISTHMUS_MAPPING__CLICKS__USER_ID", "ISTHMUS_WORKER", "HOME", "ISTHMUSX"]
    assert unread_variables(dict.fromkeys(read, "x"), variables()) == {}
    written = {name for file in SOURCES.rglob("*.py") for name in re.findall(r'"(ISTHMUS_[A-Z_]+[A-Z])"', file.read_text())}
    assert set(OTHER_VARIABLES) <= written
    assert unread_variables(dict.fromkeys(written, "x"), variables()) == {}


@pytest.mark.parametrize(
    "text",
    [
        "[wroker]\nname = 'x'",
        "[worker]\nnmae = 'x'",
        "cache_dri = 'x'",
        "[kafka.boostrap]\nx = 1",
        "[mapping.clicks]\nusr_id = 'x'",
    ],
)
def test_a_name_in_the_file_that_does_not_exist_is_refused(here: Path, text: str) -> None:
    """The file is ours alone, so that a name in it is a mistake."""
    (here / "isthmus.toml").write_text(text)
    with pytest.raises(IsthmusError, match=r"isthmus.toml"):
        load()


@pytest.mark.parametrize(
    "name", ["ISTHMUS_CACHE_DIR", "ISTHMUS_WORKER__STATE_DIR", "ISTHMUS_ENCODER__TEXT_MODEL", "ISTHMUS_API__TLS_KEY"]
)
def test_a_url_is_refused_where_only_a_path_can_be_used(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would create a folder `s3:` in the working directory."""
    monkeypatch.setenv(name, "s3://bucket/folder")
    with pytest.raises(IsthmusError, match=rf"\({name}.*cannot be a URL"):
        load()


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_a_settings_file_that_is_named_must_exist(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Otherwise all of its settings would be silently without effect."""
    monkeypatch.setenv("ISTHMUS_CONFIG", name)
    with pytest.raises(IsthmusError, match="ISTHMUS_CONFIG names"):
        load()

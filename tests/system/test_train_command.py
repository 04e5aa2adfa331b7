"""`isthmus train` and `isthmus models` on files: exit codes, what they print, what they announce."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from models.artifact import load_ranker
from stream.cli import models, train
from stream.cli.times import parse_interval_s
from stream.core.announcements import ModelAnnouncement, decode_announcement
from stream.errors import IsthmusError
from tests.purchases import ITEMS, purchases
from tests.system.registries import uri_of
from training.datasets.example_file import write_examples

NOWHERE = "127.0.0.1:1"


@pytest.fixture(autouse=True)
def surroundings(registry_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's own registry, and a gate that is content with few events."""
    monkeypatch.setenv("ISTHMUS_REGISTRY__URI", uri_of(registry_folder))
    monkeypatch.setenv("ISTHMUS_REGISTRY__FOLDER", str(registry_folder / "models"))
    monkeypatch.setenv("ISTHMUS_TRAINING__MIN_JUDGED", "30")


def run_train(folder: Path, *arguments: str, count: int = 600, tells: bool = True) -> Result:
    write_examples(folder / "examples.bin", purchases(count, planted=tells))
    return CliRunner().invoke(train.app, ["--examples", str(folder / "examples.bin"), *arguments])


def announced(file: Path) -> list[ModelAnnouncement]:
    return [decode_announcement(line) for line in file.read_bytes().splitlines()]


def test_a_first_run_announces_popular_and_then_the_network(tmp_path: Path) -> None:
    """Exit code 0: promoted. Workers have something to serve while the network is trained."""
    file = tmp_path / "announced.jsonl"
    result = run_train(tmp_path, "--announce-file", str(file))
    assert result.exit_code == 0, result.output
    first, second = announced(file)
    assert (first.name, first.version, second.name, second.version) == ("popular", "1", "isthmus", "2")
    assert {first.role, second.role} == {"champion"}
    for announcement in (first, second):
        assert load_ranker(announcement.uri, announcement.sha256).version == announcement.version
    assert "epoch" in result.output
    assert "version 2 promoted" in result.output


def test_a_system_is_chosen_by_name_and_goes_on_from_its_checkpoints(tmp_path: Path) -> None:
    """The second run finds training done. Neither is promoted: another champion would be another beginning."""
    arguments = ("--system", "session", "--resume", str(tmp_path / "checkpoints"), "--announce-file", str(tmp_path / "announced"))
    first = run_train(tmp_path, *arguments, "--min-judged", "10", count=120, tells=False)
    assert "validation loss" in first.output
    assert (tmp_path / "checkpoints" / "session.pt").exists()
    again = run_train(tmp_path, *arguments, "--min-judged", "10", count=120, tells=False)
    assert "resumes after epoch" in again.output
    assert "validation loss" not in again.output


@pytest.mark.parametrize(
    ("arguments", "says"), [(["--system", "oracle"], "choose one of popular"), (["--resume", "x", "--every", "1h"], "leave one")]
)
def test_what_cannot_be_trained_is_an_error_that_says_what_to_do(tmp_path: Path, arguments: list[str], says: str) -> None:
    result = run_train(tmp_path, *arguments, count=60)
    assert isinstance(result.exception, IsthmusError)
    assert says in str(result.exception)


def test_a_refused_run_exits_with_3_and_says_why(tmp_path: Path) -> None:
    file = tmp_path / "announced.jsonl"
    result = run_train(tmp_path, "--announce-file", str(file), tells=False)
    assert result.exit_code == 3, result.output
    assert "not better than Popular" in result.output
    assert [announcement.name for announcement in announced(file)] == ["popular"]


def test_too_few_fresh_purchases_exit_with_3_and_say_how_many_are_needed(tmp_path: Path) -> None:
    result = run_train(tmp_path, "--min-judged", "500")
    assert result.exit_code == 3, result.output
    assert "500 are needed" in result.output
    assert "fewer with --min-judged" in result.output
    assert "wait for" not in result.output  # a file does not grow


def test_items_are_named_with_or_without_spaces_and_some_of_them_must_have_been_bought(tmp_path: Path) -> None:
    """Otherwise nothing could be learned of them."""
    file = tmp_path / "announced.jsonl"
    run_train(tmp_path, "--items", ", ".join(ITEMS), "--min-judged", "500", "--announce-file", str(file))
    popular = load_ranker(announced(file)[0].uri)
    assert popular.items == ITEMS
    assert popular.prior.all()
    result = run_train(tmp_path, "--items", "roof,cellar")
    assert isinstance(result.exception, IsthmusError)
    assert "none of the items that were bought: item-0, item-1" in str(result.exception)


def test_too_few_examples_are_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    result = run_train(tmp_path, count=10)
    assert isinstance(result.exception, IsthmusError)
    assert "wait for purchases" in str(result.exception)


def test_a_registry_that_cannot_be_used_is_an_error_that_names_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"no database" * 500)
    monkeypatch.setenv("ISTHMUS_REGISTRY__URI", f"sqlite:///{broken}")
    result = run_train(tmp_path)
    assert isinstance(result.exception, IsthmusError)
    assert "registry.uri" in str(result.exception)


def test_an_unreachable_broker_is_an_error_that_names_it() -> None:
    result = CliRunner().invoke(train.app, ["--bootstrap", NOWHERE])
    assert isinstance(result.exception, IsthmusError)
    assert NOWHERE in str(result.exception)


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("15m", 900), ("1h", 3_600), ("45", 45), ("0.5m", 30)])
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_interval_s(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1s", "15 m", "soon", "1d"])
def test_what_is_no_duration_is_refused_with_examples(text: str) -> None:
    with pytest.raises(IsthmusError, match="30s, 15m or 1h"):
        parse_interval_s(text)


def test_models_are_listed_shown_promoted_and_rolled_back(tmp_path: Path) -> None:
    run_train(tmp_path)
    listed = CliRunner().invoke(models.app, ["list"]).output.splitlines()
    assert [line.split()[:3] for line in listed] == [["2", "isthmus", "champion"], ["1", "popular", "previous"]]
    assert "MAP@3" in listed[0]
    assert "better than" in listed[0]
    shown = CliRunner().invoke(models.app, ["show", "2"]).output
    assert "map3_union" in shown
    assert "sha256" in shown
    assert "calibration_error" in shown
    curve = [line.split() for line in shown.partition("probability")[2].splitlines()[1:]]
    assert len(curve) == 10
    assert [float(row[0]) for row in curve] == sorted(float(row[0]) for row in curve)
    assert sum(int(row[2]) for row in curve) % 3 == 0
    assert "version 1 is champion again" in CliRunner().invoke(models.app, ["rollback", "--no-announce"]).output
    assert "version 2 is champion" in CliRunner().invoke(models.app, ["promote", "2", "--no-announce"]).output
    assert CliRunner().invoke(models.app, ["list"]).output.splitlines() == listed


def test_a_version_becomes_challenger_by_hand(tmp_path: Path) -> None:
    run_train(tmp_path)
    CliRunner().invoke(models.app, ["promote", "1", "--role", "challenger", "--no-announce"])
    lines = CliRunner().invoke(models.app, ["list"]).output.splitlines()
    assert lines[1].split()[2] == "challenger,previous"


def test_an_empty_registry_says_how_to_fill_it() -> None:
    assert "isthmus train" in CliRunner().invoke(models.app, ["list"]).output


@pytest.mark.parametrize(
    "arguments", [["show", "9"], ["promote", "9", "--no-announce"], ["rollback", "--no-announce"], ["announce"]]
)
def test_what_is_not_there_is_an_error_that_says_what_to_do(arguments: list[str]) -> None:
    result = CliRunner().invoke(models.app, arguments)
    assert isinstance(result.exception, IsthmusError)
    assert "isthmus" in str(result.exception)


def test_a_promotion_that_cannot_be_announced_says_that_the_registry_is_ahead(tmp_path: Path) -> None:
    run_train(tmp_path)
    result = CliRunner().invoke(models.app, ["promote", "1", "--bootstrap", NOWHERE])
    assert isinstance(result.exception, IsthmusError)
    assert "isthmus models announce" in str(result.exception)
    assert CliRunner().invoke(models.app, ["list"]).output.splitlines()[1].split()[2] == "champion"


@pytest.mark.parametrize(
    ("app", "arguments"), [(train.app, []), *((models.app, [name]) for name in ("list", "show", "promote", "rollback", "announce"))]
)
def test_every_help_has_an_example(app: object, arguments: list[str]) -> None:
    result = CliRunner().invoke(app, [*arguments, "--help"])  # type: ignore[arg-type]
    assert result.exit_code == 0
    assert "Example: isthmus" in result.output

"""`isthmus dataset synthesize`: writes, says what it wrote, and does not overwrite."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from stream.cli.dataset import app
from stream.errors import IsthmusError
from training.synthetic import NOTICE


def test_it_writes_tables_and_events_and_says_that_they_are_synthetic(tmp_path: Path) -> None:
    tables, events = tmp_path / "tables", tmp_path / "events"
    result = CliRunner().invoke(app, ["synthesize", "--out", str(tables), "--purchases", "50", "--events", str(events)])
    assert result.exit_code == 0, result.output
    assert NOTICE in result.output
    assert (tables / "data_users.csv.gz").exists()
    assert (events / "clicks.jsonl").exists()


def test_it_refuses_a_folder_that_is_not_empty_unless_forced(tmp_path: Path) -> None:
    """What is there may be somebody's data."""
    (tmp_path / "mine.txt").write_text("mine")
    arguments = ["synthesize", "--out", str(tmp_path), "--purchases", "20"]
    refused = CliRunner().invoke(app, arguments)
    assert isinstance(refused.exception, IsthmusError)
    assert "--force" in str(refused.exception)
    assert CliRunner().invoke(app, [*arguments, "--force"]).exit_code == 0
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_help_has_an_example_and_says_that_the_world_is_synthetic() -> None:
    text = CliRunner().invoke(app, ["synthesize", "--help"]).output
    assert "isthmus dataset synthesize" in text
    assert "synthetic" in text


@pytest.mark.parametrize("purchases", ["0", "-1"])
def test_it_refuses_a_world_without_purchases(purchases: str, tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["synthesize", "--out", str(tmp_path / "x"), "--purchases", purchases]).exit_code == 2

"""The command line as a person meets it: everyday mistakes end with exit code 2 and words, not with a traceback."""

import sys
from pathlib import Path

import pytest

from stream.cli.main import main
from tests.purchases import purchases
from training.datasets.example_file import write_examples
from training.datasets.synthetic.write_tables import write_tables


@pytest.fixture
def mistaken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a world, a file of examples, a text file and a cut one; the command line works in it, with an empty cache."""
    write_tables(tmp_path / "world", 60, 0)
    write_examples(tmp_path / "examples", purchases(100))
    (tmp_path / "mine.txt").write_text("mine, and no example of anything")
    (tmp_path / "cut").write_bytes((tmp_path / "examples").read_bytes()[:-5])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ISTHMUS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("ISTHMUS_REGISTRY__URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("ISTHMUS_REGISTRY__FOLDER", str(tmp_path / "models"))
    return tmp_path


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("dataset describe world --out mine.txt", "mine.txt cannot be used (File exists)"),
        ("dataset synthesize --purchases 20 --out mine.txt/world", "mine.txt/world/answer-key cannot be used (Not a directory)"),
        ("train --examples nothing", "nothing cannot be used (No such file or directory)"),
        ("train --examples world", "world cannot be used (Is a directory)"),
        ("train --examples mine.txt", "mine.txt is not a file of training examples, or was cut short (number 1"),
        ("train --examples cut", "cut is not a file of training examples, or was cut short (number 100"),
        ("train --examples examples --resume mine.txt", "'--resume': "),
        ("train --examples examples --seed -1", "'--seed': "),
        ("train --examples examples --data world", "--examples and --data both say what to train on"),
        ("train --data world --items a", "--items goes with --examples"),
        ("benchmark --data world --out r.json", "manifest.json is missing): make one with `isthmus text-model import`"),
    ],
)
def test_a_mistake_is_told_in_words(
    mistaken: Path, line: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The place and the reason, and what was there is as it was."""
    monkeypatch.setattr(sys, "argv", ["isthmus", *line.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert (mistaken / "mine.txt").read_text() == "mine, and no example of anything"


def test_a_file_that_fails_under_a_worker_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be a bug, met after days."""
    from stream.services import worker

    def fail(*_: object) -> None:
        raise FileNotFoundError(2, "No such file or directory", "state")

    monkeypatch.setattr(worker, "run_worker", fail)
    monkeypatch.setattr(sys, "argv", ["isthmus", "worker"])
    with pytest.raises(FileNotFoundError):
        main()

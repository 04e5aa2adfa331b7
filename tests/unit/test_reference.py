"""The generated pages match the code: every setting, metric, topic, command and message is there."""

from pathlib import Path

import pytest

from deploy.generate_reference import PAYLOADS, pages
from stream.cli.main import COMMANDS
from stream.kafka.cluster.topics import specs
from stream.metrics import DECLARED
from stream.settings import Settings, TopicSettings, leaves

PAGES = pages()


@pytest.mark.parametrize("path", list(PAGES), ids=lambda path: path.name)
def test_a_page_is_what_the_generator_writes(path: Path) -> None:
    """`make docs` writes it again."""
    assert path.read_text() == PAGES[path], f"{path.name} is stale: run `make docs` and commit it"


def text_of(name: str) -> str:
    (path,) = (path for path in PAGES if path.name == name)
    return path.read_text()


def test_no_setting_is_missing() -> None:
    """Each is there with its variable."""
    page = text_of("settings.md")
    assert [name for name, _, _ in leaves(Settings()) if f"`{name}`" not in page] == []


def test_no_metric_is_missing() -> None:
    """Each is there by its exported name."""
    assert [name for name in DECLARED if f"`isthmus_{name}" not in text_of("metrics.md")] == []


def test_no_topic_or_message_is_missing() -> None:
    """Every topic but the changelog is in the AsyncAPI document, with its payload."""
    roles = {spec.role for spec in specs(TopicSettings(flat=True))} - {"changelog"}
    assert roles == PAYLOADS.keys()
    assert [spec.name for spec in specs(TopicSettings(flat=True)) if f"`{spec.name}`" not in text_of("topics.md")] == []


def test_no_command_is_missing_and_each_has_an_example() -> None:
    """From what `--help` prints."""
    page = text_of("commands.md")
    sections = page.split("\n## ")[1:]
    assert [name for name in COMMANDS if f"## isthmus {name}" not in page] == []
    groups = {name for name in COMMANDS if f"## isthmus {name} " in page}
    assert [
        section.split("\n")[0] for section in sections if "Example:" not in section and section.split("\n")[0][8:] not in groups
    ] == []

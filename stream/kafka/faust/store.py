"""The folder of a worker's stores remembers which changelog they continue: a recreated one is refused, not followed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from stream.errors import IsthmusError
from stream.kafka.agents.watchdog import changelog_recreated

_NOTE: Final = "changelog-epoch"


def check_changelog(folder: Path, changelog: Mapping[str, int]) -> None:
    """Notes the epoch of the changelog (by its name) in a new folder, and compares it in an old one.

    Raises:
        IsthmusError: the changelog was recreated; the message says how to begin anew.
    """
    ((name, epoch),) = changelog.items()
    note = folder / _NOTE
    if not note.exists():
        folder.mkdir(parents=True, exist_ok=True)
        note.write_text(f"{epoch}\n")
    elif note.read_text().strip() != str(epoch):
        raise IsthmusError(changelog_recreated(name))

"""Which model folders a process reads, and how much of them.

An announcement names a folder, a manifest names its files, and their sizes decide what is allocated. Whoever may write to the topic
`models` or to the registry must not decide what is opened: a folder lies below one that the settings trust, names are plain, and
sizes are bounded.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from fsspec.implementations.local import LocalFileSystem

from models import folders
from models.folders import FolderError
from stream.core import limits

MAX_JSON_BYTES: Final = 64 << 20
"""Of a file that is parsed as JSON, which takes many times its size in memory: a million items are 40 MB."""
MAX_FILES: Final = 100
_LONGEST: Final = 200
_LOCAL: Final = ("file://", "local://")
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_PLAIN_PART: Final = re.compile(r"(?!\.{1,2}$)[^\x00-\x1f\x7f%?#\\:*\[\]]+")
"""A part of a URL that every scheme reads as it is written: no `..`, no percent escape, no query, no further link of a chain."""


class UntrustedFolderError(FolderError):
    """A folder does not lie below one that the settings trust."""


class FolderTooLargeError(FolderError):
    """A folder, or a file in it, is larger than the settings allow."""


class PlainNameError(FolderError):
    """A manifest names something else than files of its own folder."""


class FolderTrust(NamedTuple):
    """What a process may read.

    Attributes:
        folders: Paths and URLs below which model folders may lie; None: anywhere, where the caller has chosen the folder itself.
        max_file_bytes: Largest file.
        max_folder_bytes: Largest sum of the files that are read of a folder.
    """

    folders: tuple[str, ...] | None = None
    max_file_bytes: int = limits.MODEL_FILE_BYTES
    max_folder_bytes: int = limits.MODEL_FOLDER_BYTES


ANYWHERE: Final = FolderTrust()


class TrustedFolder:
    """Reads the files of one folder."""

    def __init__(self, uri: str, trust: FolderTrust = ANYWHERE) -> None:
        """Raises UntrustedFolderError if the folder lies nowhere that is trusted."""
        self._shown = shown(uri)
        self._roots = trust.folders
        self._folder = uri if trust.folders is None else located(uri, trust.folders)
        self._trust = trust
        self._left = trust.max_folder_bytes

    def check(self, names: Iterable[str]) -> None:
        """Returns if these files may be read, before any of them is.

        Raises:
            PlainNameError: one is no plain file name.
            FolderTooLargeError: one is too large, or all of them together.
            FolderError: one is missing.
        """
        named = list(names)
        if len(named) > MAX_FILES:
            raise PlainNameError(f"{self._shown}: the manifest names {len(named)} files; at most {MAX_FILES} are read")
        sizes = {name: folders.size_of(self._folder, self._plain(name)) for name in named}
        for name, size in sizes.items():
            if size > self._largest(name):
                raise self._too_large(name)
        if sum(sizes.values()) > self._left:
            raise self._too_large("all files together")

    def read(self, name: str) -> bytes:
        """Returns a file.

        Raises:
            PlainNameError: this is no plain file name.
            FolderTooLargeError: it is too large, whatever its storage said before.
            FolderError: it cannot be read.
        """
        content = folders.read(self._folder, self._plain(name), min(self._largest(name), self._left))
        if content is None:
            raise self._too_large(name)
        self._left -= len(content)
        return content

    def _plain(self, name: str) -> str:
        """The name, if it stands for a file of this folder, also where it is a link."""
        if not _PLAIN_NAME.fullmatch(name):
            raise PlainNameError(f"{self._shown}: the manifest names {shown(name)}, which is no plain file name")
        if self._roots is not None and (local := _local(self._folder)) is not None:
            located(str(local / name), self._roots)
        return name

    def _largest(self, name: str) -> int:
        return min(self._trust.max_file_bytes, MAX_JSON_BYTES) if name.endswith(".json") else self._trust.max_file_bytes

    def _too_large(self, what: str) -> FolderTooLargeError:
        return FolderTooLargeError(
            f"{self._shown}: {what} has more bytes than are read: registry.max_file_bytes is {self._trust.max_file_bytes}, "
            f"registry.max_folder_bytes is {self._trust.max_folder_bytes}, and a JSON file has at most {MAX_JSON_BYTES}"
        )


def located(uri: str, trusted: Iterable[str]) -> str:
    """Returns the folder to open for `uri`: a URL as it is, a local path without links and `..`.

    Raises:
        UntrustedFolderError: it lies below none of the trusted ones.
    """
    named = tuple(trusted)
    for folder in named:
        found = _below(uri, folder)
        if found is not None:
            return found
    known = ", ".join(named) or "none"
    raise UntrustedFolderError(f"{shown(uri)} does not lie below a trusted folder ({known}): see registry.trusted_folders")


def shown(text: str) -> str:
    """Somebody else's text as one short line."""
    return repr(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")


def _below(uri: str, folder: str) -> str | None:
    """The folder to open if it is the trusted one or lies below it; otherwise None."""
    there, here = _local(folder), _local(uri)
    if there is not None or here is not None:
        return str(here) if here is not None and there is not None and here.is_relative_to(there) else None
    trusted = folder.rstrip("/")
    if uri == trusted:
        return uri
    rest = uri.removeprefix(f"{trusted}/")
    return uri if rest != uri and all(_PLAIN_PART.fullmatch(part) for part in rest.split("/")) else None


def _local(folder: str) -> Path | None:
    """The path of a local folder, without links and `..`; None if it is elsewhere, or no path."""
    if folders.is_url(folder) and not ("::" not in folder and folder.startswith(_LOCAL)):
        return None
    path = str(LocalFileSystem._strip_protocol(folder)) if folder.startswith(_LOCAL) else folder  # noqa: SLF001  (as it opens it)
    try:
        return Path(path).resolve()
    except (OSError, ValueError, RuntimeError):  # a circle of links, a NUL, a name that is too long
        return None

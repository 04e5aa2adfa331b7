"""Where model folders are: a local path, or any URL that fsspec opens (s3://, gs://, abfs://, sftp://, file:// ...).

The package of a scheme is installed beside Isthmus. Each raises errors of its own kind, which become `FolderError` here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from fsspec.core import url_to_fs

from stream.errors import IsthmusError

_SEPARATORS: Final = ("://", "::")
_PART_BYTES: Final = 1 << 20


class FolderError(IsthmusError):
    """A folder cannot be opened, read or written; the message says what to do."""


def is_url(folder: str) -> bool:
    return any(separator in folder for separator in _SEPARATORS)


def absolute(folder: str) -> str:
    """Returns a local path in full; a URL as it is, without a trailing slash.

    >>> absolute("s3://bucket/models/")
    's3://bucket/models'
    """
    return folder.rstrip("/") if is_url(folder) else str(Path(folder).resolve())


def check_opens(folder: str) -> None:
    """Raises FolderError if no installed package opens the folder's scheme."""
    _located(folder)


def exists(folder: str) -> bool:
    """Whether there is such a folder, or on an object store anything below it.

    Raises:
        FolderError: the storage cannot be asked.
    """
    files, path = _located(folder)
    with _translated_errors(folder, "read"):
        files.invalidate_cache()  # another process may have written since
        return bool(files.exists(path))


def create(folder: str) -> None:
    """Creates a new folder. Locally with those above it; elsewhere, a bucket or the folder above must exist: a misspelt name must
    not become a new bucket.

    Raises:
        FolderError: it exists already, or cannot be created.
    """
    files, path = _located(folder)
    with _translated_errors(folder, "created"):
        if is_url(folder) and not folder.startswith("file:"):
            files.mkdir(path, create_parents=False)
        else:
            files.makedirs(path, exist_ok=False)


def write(folder: str, name: str, content: bytes) -> None:
    """Writes a file into a folder.

    Raises:
        FolderError: it cannot be written.
    """
    files, path = _located(folder)
    with _translated_errors(folder, "written"):
        files.pipe_file(f"{path.rstrip('/')}/{name}", content)


def size_of(folder: str, name: str) -> int:
    """Returns the size of a file of a folder; 0 where its storage does not say.

    Raises:
        FolderError: it cannot be asked for, or is no file: opening a pipe or a device would wait for ever.
    """
    files, path = _located(folder)
    with _translated_errors(f"{folder.rstrip('/')}/{name}", "read"):
        files.invalidate_cache()
        found = files.info(f"{path.rstrip('/')}/{name}")
        if found.get("type") in {"directory", "other"}:
            raise ValueError("it is no file")
        return int(found.get("size") or 0)


def read(folder: str, name: str, max_bytes: int) -> bytes | None:
    """Returns a file of a folder; None, before it is read further, if it has more than `max_bytes`.

    Raises:
        FolderError: it cannot be read.
    """
    size = size_of(folder, name)
    if size > max_bytes:
        return None
    files, path = _located(folder)
    with _translated_errors(f"{folder.rstrip('/')}/{name}", "read"), files.open(f"{path.rstrip('/')}/{name}", "rb") as file:
        content = bytearray()
        while part := file.read(min(max_bytes + 1 - len(content), max(size + 1 - len(content), _PART_BYTES))):
            content += part
            if len(content) > max_bytes:
                return None
        return bytes(content)


def _located(folder: str) -> tuple[Any, str]:
    """The file system of a folder, and the folder's path in it."""
    try:
        files, path = url_to_fs(folder if is_url(folder) else str(Path(folder).absolute()))
    except ImportError as error:
        raise FolderError(f"{folder} needs a package that is not installed beside Isthmus: {error}") from None
    except ValueError as error:
        raise FolderError(f"{folder} is no folder that can be opened: {error}") from None
    return files, path


@contextmanager
def _translated_errors(what: str, done: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # each scheme's package raises its own: botocore's, google's, paramiko's are no OSError
        text = next(iter(str(error).strip().splitlines()), "")
        raise FolderError(
            f"{what} cannot be {done} ({type(error).__name__}: {text}): check the name and the access to it"
        ) from error

"""Environment variables that look like settings but are not: nothing reads them, so a misspelled one would go unnoticed.

They are named and never refused, because others set some, too: Kubernetes does for every service of the namespace.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from stream.errors import IsthmusError

PREFIX: Final = "ISTHMUS_"
FROM_FILE: Final = "_FILE"
"""Ending of a variable that names a file with a secret, as Docker and Kubernetes hand secrets over."""
OTHER_VARIABLES: Final = ("ISTHMUS_CONFIG", "ISTHMUS_KAFKA_JARS")
"""Variables that are read and no settings: the settings file, and the folder of a local broker's jars."""

_KUBERNETES: Final = re.compile(r"ISTHMUS_(\w+_)?((SERVICE_PORT(_\w+)?|SERVICE_HOST|PORT_\d+_\w+)=.*|PORT=\w+://.*)")
"""What Kubernetes sets for a service whose name begins with "isthmus", as NAME=VALUE."""


def unread_variables(environment: Mapping[str, str], known: Collection[str]) -> dict[str, str | None]:
    """Returns the variables that nobody reads, each with the nearest name that exists; `known` are those of the settings."""
    nearest_of = {name.removeprefix(PREFIX): name for name in (*known, *OTHER_VARIABLES)}
    unread = {}
    for name, value in environment.items():
        upper = name.upper()
        is_read = upper in known or upper in OTHER_VARIABLES
        if upper.startswith(PREFIX) and not is_read and not _KUBERNETES.fullmatch(f"{upper}={value}"):
            nearest = get_close_matches(upper.removeprefix(PREFIX), nearest_of, n=1)
            unread[name] = nearest_of[nearest[0]] if nearest else None
    return unread


def warnings_of(unread: Mapping[str, str | None]) -> Iterable[str]:
    """Yields a line for each variable that nobody reads."""
    for name, nearest in unread.items():
        hint = f"did you mean {nearest}?" if nearest else "`isthmus settings` prints those that exist"
        yield f"nobody reads the variable {name}: {hint}"


def contents_of_files(environment: Mapping[str, str], secrets: Iterable[str]) -> dict[str, str]:
    """Returns the value of each of the variables `secrets` that is given as a file, without a newline at the end.

    Raises:
        IsthmusError: the file cannot be read, or the variable itself is set too.
    """
    given = {name.upper(): value for name, value in environment.items()}
    found = {}
    for name in secrets:
        file = given.get(f"{name}{FROM_FILE}")
        if not file:
            continue
        if given.get(name):
            raise IsthmusError(f"{name} and {name}{FROM_FILE} are both set: leave one of them out")
        try:
            found[name] = Path(file).read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise IsthmusError(f"{name}{FROM_FILE} names {file}, which cannot be read ({type(error).__name__})") from None
    return found

"""What is named after the application: whatever several applications on one cluster, machine or registry must not share.

The application "isthmus", the default, has the names without a prefix that it had when there was no other.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

DEFAULT: Final = "isthmus"
_LONGEST: Final = 40
_ALLOWED: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def checked_name(name: str) -> str:
    """Returns a name that Kafka, file systems, Redis, PostgreSQL and MLflow all take; raises ValueError for another."""
    if len(name) > _LONGEST or not _ALLOWED.fullmatch(name):
        raise ValueError(f"must be words of a-z and 0-9 with hyphens between, such as shop-eu; at most {_LONGEST} characters")
    return name


def worker_group(application: str) -> str:
    """The workers' consumer group and Faust application; begins the changelog's name and the transactional ids."""
    return f"{application}-profiles"


def encoder_group(application: str) -> str:
    """The encoders' consumer group and Faust application."""
    return f"{application}-encoder"


def catalogue_group(application: str) -> str:
    """The consumer group in which one of the workers sends the dead letters of `items`."""
    return f"{application}-catalogue"


def skips_group(application: str) -> str:
    """The group without members in which operators note what may be skipped."""
    return f"{application}-skips"


def own_folder(folder: Path, application: str) -> Path:
    """The application's part of a folder of this machine."""
    return folder if application == DEFAULT else folder / application


def own_url(folder: str, application: str) -> str:
    """The application's part of a folder that may be a URL."""
    return folder if application == DEFAULT else f"{folder.rstrip('/')}/{application}"


def own_names(application: str, topics: Iterable[tuple[str, str]]) -> dict[str, dict[str, str]]:
    """The settings that are named after the application unless they are set, by section and key.

    `topics`: role and default name of each topic that Isthmus itself writes.
    """
    return {
        "topics": {role: name if application == DEFAULT else f"{application}-{name}" for role, name in topics},
        "api": {"redis_prefix": f"{application}-api"},
        "postgres": {"group": f"{application}-sink-postgres", "db_schema": application.replace("-", "_")},
        "webhook": {"group": f"{application}-sink-webhook"},
    }

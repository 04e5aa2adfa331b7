"""The settings of the new application, and of its processes while they read the past."""

from __future__ import annotations

import json
from typing import Final

from stream.application import checked_name
from stream.core.events import INPUTS
from stream.errors import IsthmusError
from stream.kafka.cluster.topics import specs
from stream.settings import OWN_TOPICS, Settings, load, with_changes

_READ_FROM_THE_FORMER: Final = ("models", "api_keys")
"""What the new application goes on to read of the former one's topics, unless it gets its own."""
_WRITTEN: Final = tuple(role for role, _ in OWN_TOPICS if role not in _READ_FROM_THE_FORMER)


def successor_of(settings: Settings, new: str) -> Settings:
    """The settings of the application that is to replace the one of `settings`.

    Raises:
        IsthmusError: the name cannot be used, or the settings name the same outputs for both.
    """
    try:
        checked_name(new)
    except ValueError as error:
        raise IsthmusError(f"{new!r} is no name of an application: it {error}") from None
    if new == settings.application:
        raise IsthmusError(f"{new} is the running application: name the new one otherwise")
    found = load(application=new).model_copy(update={"kafka": settings.kafka})
    for role in _WRITTEN:
        if found.topics.name_of(role) == settings.topics.name_of(role):
            raise IsthmusError(
                f"topics.{role} is set, so that both applications would write to {found.topics.name_of(role)}: unset it (or "
                f"ISTHMUS_TOPICS__{role.upper()}), and each gets a topic named after it"
            )
    return found


def outputs_of(former: Settings, new: Settings) -> list[tuple[str, str]]:
    """The names of the outputs that there are, the former one's and the new one's."""
    names = {spec.name for spec in specs(new.topics, new.application)}
    return [(former.topics.name_of(role), new.topics.name_of(role)) for role in _WRITTEN if new.topics.name_of(role) in names]


def past_topics(new: Settings) -> dict[str, str]:
    """The inputs of the past alone, by role: no other application reads them."""
    return {row.role: f"{new.application}-past-{row.default_name}" for row in INPUTS if not row.is_derived}


def with_past(new: Settings) -> Settings:
    """The settings of the new application while it reads the past."""
    return with_changes(new, "topics", **past_topics(new))


def variables_of(former: Settings, new: Settings) -> dict[str, str]:
    """What the processes of the new application need besides what those of the former one have."""
    return {
        "ISTHMUS_APPLICATION": new.application,
        "ISTHMUS_REGISTRY__ANNOUNCED_BY": former.announced_by,
        **{f"ISTHMUS_TOPICS__{role.upper()}": former.topics.name_of(role) for role in _READ_FROM_THE_FORMER},
    }


def variables_of_past(former: Settings, new: Settings, state_dir: str) -> dict[str, str]:
    """What its processes need while they read the past, besides what this process has."""
    return {
        **variables_of(former, new),
        **{f"ISTHMUS_TOPICS__{role.upper()}": name for role, name in past_topics(new).items()},
        "ISTHMUS_WORKER__STATE_DIR": state_dir,
        "ISTHMUS_WORKER__STATIC_MEMBERSHIP": json.dumps(False),
        "ISTHMUS_KAFKA__DEV": json.dumps(new.kafka.dev),
    }

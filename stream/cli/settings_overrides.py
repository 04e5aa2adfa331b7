"""What commands share: settings with the options on top, logging, the step's settings."""

import logging
from typing import Any

from stream.settings import Settings, load


def settings_with(bootstrap: str | None = None, *, dev: bool = False, **sections: Any) -> Settings:
    """The settings, `bootstrap` and `dev` from the command line on top."""
    settings = load(**sections)
    changes: dict[str, object] = {} if bootstrap is None else {"bootstrap": bootstrap}
    if dev:
        changes["dev"] = True
    return settings.model_copy(update={"kafka": settings.kafka.model_copy(update=changes)})


def log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for noisy in ("aiokafka", "kafka", "faust", "mode"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("kafka.net.selector").setLevel(logging.ERROR)  # warns of its own thread's loop on a busy machine


def with_changes(settings: Settings, section: str, **changes: object) -> Settings:
    """The settings with a section's values from the command line on top; None leaves a value as it is."""
    given = {name: value for name, value in changes.items() if value is not None}
    return settings.model_copy(update={section: getattr(settings, section).model_copy(update=given)})

"""The settings with the options that most commands share on top."""

from typing import Any

from stream.settings import Settings, load, with_changes


def settings_with(bootstrap: str | None = None, *, dev: bool = False, **sections: Any) -> Settings:
    """Loads the settings; `bootstrap` and `dev` from the command line win over them."""
    return with_changes(load(**sections), "kafka", bootstrap=bootstrap, dev=dev or None)

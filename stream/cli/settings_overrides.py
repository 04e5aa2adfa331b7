"""The settings with the options that most commands share on top."""

import os
from typing import Any

import typer

from stream.kafka.cluster.corrupt_batches import use_skips_of
from stream.kafka.cluster.security import use_security
from stream.settings import Settings, load, variables, with_changes
from stream.variables import unread_variables, warnings_of


def settings_with(bootstrap: str | None = None, *, dev: bool = False, **sections: Any) -> Settings:
    """Loads the settings; `bootstrap` and `dev` from the command line win over them. Names the variables that nobody reads.
    From now on this process connects to Kafka as the settings say, for the application that they name.
    """
    for warning in warnings_of(unread_variables(os.environ, variables())):
        typer.echo(f"isthmus: warning: {warning}", err=True)
    settings = with_changes(load(**sections), "kafka", bootstrap=bootstrap, dev=dev or None)
    use_security(settings.kafka)
    use_skips_of(settings.application)
    return settings

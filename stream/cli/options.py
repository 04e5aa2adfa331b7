"""Options that several commands share."""

from typing import Annotated

import typer

Bootstrap = Annotated[str | None, typer.Option(help="host:port of a broker; default: setting kafka.bootstrap")]

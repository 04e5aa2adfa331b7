"""`isthmus api`: one replica of the read side."""

from typing import Annotated

import typer

from stream.cli.options import Bootstrap

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def api(
    bootstrap: Bootstrap = None,
    name: Annotated[str | None, typer.Option(help="stable name; default: setting api.name")] = None,
    host: Annotated[str | None, typer.Option(help="address to listen on; default: setting api.host")] = None,
    port: Annotated[int | None, typer.Option(help="HTTP port; default: setting api.port")] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Prometheus port, 0 chooses one; default: setting api.metrics_port")
    ] = None,
    guests: Annotated[
        bool | None,
        typer.Option("--guests", help="make lists for guests too: loads model and text model; default: setting api.guests"),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="ask for no key: whoever reaches the port may do everything")
    ] = False,
) -> None:
    """Serve lists, profiles and events over HTTP, from a store that follows the topics.

    Any number of replicas with different names. Every route but /livez and /readyz needs an API key: `isthmus keys make`.

    Example: isthmus api --bootstrap localhost:9092 --name api-1 --port 8080
    """
    import logging

    from stream.services.startup import log_to_stderr, starting

    log_to_stderr()
    with starting(logging.getLogger("isthmus").info, "loading libraries") as startup:
        from stream.cli.settings_overrides import settings_with
        from stream.services.api import run_api
        from stream.settings import with_changes

        changes = {"name": name, "host": host, "port": port, "metrics_port": metrics_port, "guests": guests}
        run_api(with_changes(settings_with(bootstrap), "api", **changes), startup, insecure=insecure)

"""`isthmus settings`: every setting with its value and origin."""

import typer

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def settings() -> None:
    """Print all settings with their values and origins; secrets are hidden.

    Example: ISTHMUS_KAFKA__BOOTSTRAP=kafka:9092 isthmus settings
    """
    from stream.cli.settings_overrides import settings_with
    from stream.settings import leaves

    for name, value, origin in leaves(settings_with()):
        typer.echo(f"{name:<28} {value:<60} {origin}")

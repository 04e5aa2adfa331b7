"""`isthmus topics`: create or check all topics; give up a damaged batch of one."""

from typing import Annotated

import typer

from stream.cli.options import Bootstrap

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def topics(
    context: typer.Context,
    bootstrap: Bootstrap = None,
    check: Annotated[bool, typer.Option(help="only check, create nothing")] = False,
    dev: Annotated[bool, typer.Option(help="one broker: replication 1")] = False,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="take over topics and groups that are noted as another application's")
    ] = False,
) -> None:
    """Create missing topics and check the others; exit code 2 if one does not fit, or is another application's.

    Topics and groups are noted as this application's, so that no other one uses them by mistake.

    Example: isthmus topics --bootstrap localhost:9092 --dev
    """
    from stream.cli.settings_overrides import settings_with
    from stream.kafka.cluster.owners import note_owned, require_access, require_ours
    from stream.kafka.cluster.rights import Process
    from stream.kafka.cluster.topics import create_or_check

    if context.invoked_subcommand is not None:
        return
    settings = settings_with(bootstrap, dev=dev)
    require_access(Process.TOPICS, settings)
    if not adopt:
        require_ours(settings)
    for line in create_or_check(
        settings.kafka.bootstrap, settings.topics, settings.application, dev=settings.kafka.dev, create=not check
    ):
        typer.echo(line)
    noted = 0 if check else note_owned(settings, adopt=adopt)
    if noted:
        typer.echo(f"{noted} topics and groups are now noted as those of the application {settings.application}")


@app.command()
def skip(
    topic: Annotated[str, typer.Argument(help="name of the topic")],
    partition: Annotated[int, typer.Argument(help="partition number")],
    offset: Annotated[int, typer.Argument(help="an offset of the damaged batch, as log and /readyz name it")],
    lose_states: Annotated[
        bool,
        typer.Option("--lose-states", help="give up what may have held deletions: it says what has to follow"),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Give up a damaged batch: every process and command that stops at it passes over it.

    What it held is lost; a worker or encoder writes one dead letter in its place. Where the header of a batch is damaged, this
    includes what the broker cannot find behind it, and finding out takes up to a minute. First make sure that no other replica
    holds the batch whole. A whole batch is refused.

    A batch of a compacted topic, or of erasures, may have held deletions: of erased users, withdrawn items, revoked keys.
    Nobody can say of which, and they would come back. It needs --lose-states, and the command says what has to follow. Of the
    changelog, a record that does not parse is given up in the same way.

    Example: isthmus topics skip web-clicks 3 1700
    """
    from stream.cli.settings_overrides import settings_with
    from stream.errors import IsthmusError
    from stream.kafka.cluster.owners import require_access
    from stream.kafka.cluster.rights import Process, require_rights
    from stream.kafka.cluster.skip_costs import cost_of
    from stream.kafka.cluster.skips import allow_skip
    from stream.kafka.cluster.topic_reader import open_topic_reader

    settings = settings_with(bootstrap)
    if topic == settings.topics.applications:  # its notes of owners cannot be read
        require_rights(Process.SKIP, settings)
    else:
        require_access(Process.SKIP, settings)
    with open_topic_reader(settings.kafka.bootstrap, skips=False) as reader:
        batch = reader.damage_at(topic, partition, offset)
    if batch is None:
        raise IsthmusError(f"{topic}-{partition}: what is stored at offset {offset} is whole; nothing is skipped")
    extent = f"offsets {batch.offset} to {batch.next_offset - 1} of {topic}-{partition}"
    cost = cost_of(topic, settings)
    if cost is not None and not lose_states:
        then = "; ".join(cost.then)
        first = f"; {cost.first}" if cost.first else ""
        raise IsthmusError(
            f"{extent} may have held {cost.held}. Nothing is skipped. --lose-states goes on{first}. What has to follow: {then}"
        )
    if not yes:
        typer.confirm(f"give up {extent} for good?", abort=True)
    allow_skip(settings.kafka.bootstrap, batch)
    if cost is None:
        typer.echo(f"{extent} will be skipped; a stopped partition goes on within 10 s")
        return
    typer.echo(f"{extent} will be skipped. It may have held {cost.held}. What has to follow:")
    for step in cost.then:
        typer.echo(f"  {step}")

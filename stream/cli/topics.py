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
        bool, typer.Option("--lose-states", help="give up a part of the changelog: `isthmus reset` has to follow")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Give up a damaged batch: every process and command that stops at it passes over it.

    What it held is lost; a worker or encoder writes one dead letter in its place. Where the header of a batch is damaged, this
    includes what the broker cannot find behind it, and finding out takes up to a minute. First make sure that no other replica
    holds the batch whole. A whole batch is refused.

    Of the changelog, in which a record that does not parse is given up in the same way, this loses states, and the deletions of
    erased users. It needs --lose-states, and `isthmus reset` before a worker starts.

    Example: isthmus topics skip web-clicks 3 1700
    """
    from stream.application import worker_group
    from stream.cli.settings_overrides import settings_with
    from stream.errors import IsthmusError
    from stream.kafka.cluster.owners import require_access
    from stream.kafka.cluster.rights import Process
    from stream.kafka.cluster.skips import allow_skip
    from stream.kafka.cluster.topic_reader import open_topic_reader
    from stream.kafka.cluster.topics import changelog_name

    settings = settings_with(bootstrap)
    require_access(Process.SKIP, settings)
    with open_topic_reader(settings.kafka.bootstrap, skips=False) as reader:
        batch = reader.damage_at(topic, partition, offset)
    is_changelog = topic == changelog_name(worker_group(settings.application))
    if batch is None:
        raise IsthmusError(f"{topic}-{partition}: what is stored at offset {offset} is whole; nothing is skipped")
    extent = f"offsets {batch.offset} to {batch.next_offset - 1} of {topic}-{partition}"
    if is_changelog and not lose_states:
        raise IsthmusError(
            f"{extent} held states of users, and what was erased of others, nobody knows of whom: users would go back to older "
            "states, and erased ones come back. Nothing is skipped. --lose-states goes on; stop all workers before"
        )
    if not yes:
        typer.confirm(f"give up {extent} for good?", abort=True)
    allow_skip(settings.kafka.bootstrap, batch)
    if not is_changelog:
        typer.echo(f"{extent} will be skipped; a stopped partition goes on within 10 s")
        return
    typer.echo(f"{extent} will be skipped. Before a worker starts:")
    typer.echo(f"  send each erasure again that {settings.topics.erasures} no longer holds: `isthmus erase USER --at TIME`")
    typer.echo("  run `isthmus reset`: it reads the inputs again, and all erasures that are left")

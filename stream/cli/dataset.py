"""`isthmus dataset`: data sets in the paper's layout: check, describe, import public corpora, synthesize."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from training.datasets.synthetic.check import Comparison

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None)
_EVENTS_FROM_MS = 1_767_225_600_000  # 2026-01-01, so that the same seed gives the same files


@app.callback()
def dataset() -> None:
    """Data sets in the paper's layout: checks, figures, conversion of public corpora, the synthetic world."""


@app.command()
def synthesize(
    out: Annotated[Path, typer.Option(help="folder for the tables")],
    purchases: Annotated[int, typer.Option(min=1, help="purchase events; the paper's data set has 62,401")] = 62_401,
    seed: Annotated[int, typer.Option(min=0, help="the same seed and number give the same rows")] = 0,
    events: Annotated[
        Path | None, typer.Option(help="also write live events of as many purchases here, JSON lines per topic")
    ] = None,
    follow_ups: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="share of a user's later purchases that are decided by what he owns: each item has a successor"
        ),
    ] = 0.0,
    plain_texts: Annotated[
        bool, typer.Option("--plain-texts", help="items have names and texts that share no word with the tags (tables only)")
    ] = False,
    check: Annotated[
        bool, typer.Option(help="compare the tables with the calibration; exit code 1 where one differs too much")
    ] = False,
    force: Annotated[bool, typer.Option(help="overwrite the contents of the folders")] = False,
) -> None:
    """Write a synthetic world: invented insurance customers with planted tastes, who do not react to recommendations.

    Example: isthmus dataset synthesize --out build/world --purchases 6000 --seed 1 --check
    """
    from time import perf_counter

    from training.datasets.synthetic import NOTICE
    from training.datasets.synthetic.check import compare, read_events

    _refuse_to_overwrite(out, force=force)
    if events is not None:
        _refuse_to_overwrite(events, force=force)
    typer.echo(f"This is {NOTICE}.")
    began = perf_counter()
    _write_tables(out, purchases, seed, follow_ups, plain_texts=plain_texts)
    typer.echo(f"{purchases} purchase events in {out}, {perf_counter() - began:.1f} s")
    if events is not None:
        _write_events(events, purchases, seed, follow_ups)
    if check:
        rows = compare(read_events(out))
        _show(rows)
        if not all(row.fits for row in rows):
            raise typer.Exit(1)


@app.command()
def validate(
    folder: Annotated[Path, typer.Argument(help="tables in the paper's layout")],
    most: Annotated[int, typer.Option(min=1, help="stop after this many problems")] = 20,
) -> None:
    """Print what a folder of tables holds, or what is wrong with it: file, row and reason of every problem, up to a limit.

    Exit codes: 0 usable, 1 problems (printed on standard error) or too few purchase events to train on, 2 wrong use.

    Example: isthmus dataset validate my-tables
    """
    from training.datasets.dataset_statistics import summary_lines
    from training.datasets.tables.reader import problems_of

    tables, problems = problems_of(folder, most)
    for problem in problems:
        typer.echo(str(problem), err=True)
    if tables is not None:
        for line in summary_lines(tables):
            typer.echo(line)
    if problems:
        typer.echo(f"{len(problems)} problems{'; there may be more: --most' if tables is None else ''}", err=True)
        raise typer.Exit(1)
    assert tables is not None
    _verdict(len({row.purchase_event_id for row in tables.interactions}))


@app.command()
def describe(
    folder: Annotated[Path, typer.Argument(help="tables in the paper's layout")],
    out: Annotated[Path, typer.Option(help="folder for the plots and description.md")],
) -> None:
    """Draw the paper's figures and tables of a data set: users by modality, event types, interactions, actions, sentences, tags,
    items, what is bought together, and drift over time.

    Example: isthmus dataset describe my-tables --out build/description
    """
    from stream.errors import IsthmusError
    from training.datasets.dataset_report import describe as draw
    from training.datasets.tables.reader import read_tables

    text = draw(read_tables(folder), folder.name, out)
    if text is None:
        raise IsthmusError(f"{folder}: no purchase event has interactions before it, so there is nothing to draw")
    typer.echo(f"{text}\nwritten: {out / 'description.md'} and the plots beside it")


@app.command("import")
def import_(
    corpus: Annotated[str, typer.Argument(help="sgd: the Schema-Guided Dialogue corpus")],
    folder: Annotated[Path, typer.Argument(help="its files as published: dialogues_*.json and schema.json, gzipped or not")],
    out: Annotated[Path, typer.Option(help="folder for the tables")],
    seed: Annotated[int, typer.Option(min=0, help="the same seed and files give the same rows")] = 0,
    force: Annotated[bool, typer.Option(help="overwrite the contents of the folder")] = False,
) -> None:
    """Make tables in the paper's layout of a public corpus. An item is a transaction that succeeded; a moment is drawn in each
    dialogue; each exchange before it is seen as text (a conversation) or as the assistant's logged acts (a session).

    What comes of it must say that the wording is human but the flow simulated, that no user comes twice, and that modalities are
    missing at random; the corpus's licence (CC BY-SA 4.0) holds for the tables too.

    Example: isthmus dataset import sgd dstc8-schema-guided-dialogue --out build/sgd --seed 0
    """
    from stream.errors import IsthmusError
    from stream.services.progress_bar import progress_bar
    from training.datasets.sgd import write_sgd

    if corpus != "sgd":
        raise IsthmusError(f"{corpus} is not a corpus that can be imported: choose sgd")
    _refuse_to_overwrite(out, force=force)
    with progress_bar("files read", 1, every=1) as show:
        events = write_sgd(folder, out, seed, progress=show)
    typer.echo(f"{events} purchase events in {out}")


def _verdict(events: int) -> None:
    """Prints what this number of purchase events with interactions is enough for."""
    from training.evaluation.benchmark import MIN_TEST
    from training.split import MIN_EXAMPLES, split

    found = f"{events:,} purchase events with interactions before them"
    if events < MIN_EXAMPLES:
        typer.echo(f"no problem in any row, but only {found}: {MIN_EXAMPLES} are needed to train", err=True)
        raise typer.Exit(1)
    if len(split(range(events))[2]) < MIN_TEST:
        typer.echo(
            f"no problems: it can be trained on and replayed; {found} are too few for a benchmark, {MIN_TEST * 10} are enough"
        )
    else:
        typer.echo("no problems: it can be trained on, replayed and benchmarked")


def _refuse_to_overwrite(folder: Path, *, force: bool) -> None:
    from stream.errors import IsthmusError

    if folder.exists() and not folder.is_dir():
        raise IsthmusError(f"{folder} is not a folder: choose another one")
    if folder.exists() and any(folder.iterdir()) and not force:
        raise IsthmusError(f"{folder} is not empty: choose another folder, or overwrite what is there with --force")


def _write_tables(out: Path, purchases: int, seed: int, follow_ups: float, *, plain_texts: bool) -> None:
    from stream.services.progress_bar import progress_bar
    from training.datasets.synthetic.write_tables import write_tables

    with progress_bar("purchase events", purchases) as show:
        write_tables(out, purchases, seed, follow_ups=follow_ups, plain_texts=plain_texts, progress=show)


def _write_events(out: Path, purchases: int, seed: int, follow_ups: float) -> None:
    import numpy as np

    from stream.services.progress_bar import progress_bar
    from training.datasets.synthetic.live import write_events
    from training.datasets.synthetic.world import make_world

    rng = np.random.default_rng(seed)
    with progress_bar("purchases in live events", purchases) as show:
        counts = write_events(out, make_world(rng, follow_ups), rng, _EVENTS_FROM_MS, purchases, progress=show)
    typer.echo(f"events in {out}: " + ", ".join(f"{count} {role}" for role, count in counts.items()))


def _show(rows: "list[Comparison]") -> None:
    typer.echo(f"{'aggregate':36}{'paper':>9}{'here':>9}{'may differ':>12}")
    for row in rows:
        typer.echo(
            f"{row.name:36}{row.published:9.4f}{row.measured:9.4f}{row.tolerance:12.3f}{'' if row.fits else '  differs too much'}"
        )

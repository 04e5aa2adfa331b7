"""`isthmus dataset`: data sets in the paper's layout. Today: the synthetic world."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from training.synthetic.check import Comparison

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None)
_EVENTS_FROM_MS = 1_767_225_600_000  # 2026-01-01, so that the same seed gives the same files


@app.callback()
def dataset() -> None:
    """Data sets in the paper's layout: the synthetic world."""


@app.command()
def synthesize(
    out: Annotated[Path, typer.Option(help="folder for the tables")],
    purchases: Annotated[int, typer.Option(min=1, help="purchase events; the paper's data set has 62,401")] = 62_401,
    seed: Annotated[int, typer.Option(min=0, help="the same seed and number give the same rows")] = 0,
    events: Annotated[
        Path | None, typer.Option(help="also write live events of as many purchases here, JSON lines per topic")
    ] = None,
    check: Annotated[
        bool, typer.Option(help="compare the tables with the calibration; exit code 1 where one differs too much")
    ] = False,
    force: Annotated[bool, typer.Option(help="overwrite what an earlier run left in the folders")] = False,
) -> None:
    """Write a synthetic world: invented insurance customers with planted tastes, who do not react to recommendations.

    Example: isthmus dataset synthesize --out build/world --purchases 6000 --seed 1 --check
    """
    from time import perf_counter

    from training.synthetic import NOTICE
    from training.synthetic.check import compare, read_events

    _refuse_to_overwrite(out, force=force)
    if events is not None:
        _refuse_to_overwrite(events, force=force)
    typer.echo(f"This is {NOTICE}.")
    began = perf_counter()
    _write_tables(out, purchases, seed)
    typer.echo(f"{purchases} purchase events in {out}, {perf_counter() - began:.1f} s")
    if events is not None:
        _write_events(events, purchases, seed)
    if check:
        rows = compare(read_events(out))
        _show(rows)
        if not all(row.fits for row in rows):
            raise typer.Exit(1)


def _refuse_to_overwrite(folder: Path, *, force: bool) -> None:
    from stream.errors import IsthmusError

    if folder.exists() and not folder.is_dir():
        raise IsthmusError(f"{folder} is not a folder: choose another one")
    if folder.exists() and any(folder.iterdir()) and not force:
        raise IsthmusError(f"{folder} is not empty: choose another folder, or overwrite what is there with --force")


@contextmanager
def _progress(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr; hears of each of `total`."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=total)

        def show(written: int) -> None:
            if written % 500 == 0:
                bar.update(task, completed=written)

        yield show


def _write_tables(out: Path, purchases: int, seed: int) -> None:
    from training.synthetic.tables import write_tables

    with _progress("purchase events", purchases) as show:
        write_tables(out, purchases, seed, progress=show)


def _write_events(out: Path, purchases: int, seed: int) -> None:
    import numpy as np

    from training.synthetic.live import write_events
    from training.synthetic.world import make_world

    rng = np.random.default_rng(seed)
    with _progress("purchases in live events", purchases) as show:
        counts = write_events(out, make_world(rng), rng, _EVENTS_FROM_MS, purchases, progress=show)
    typer.echo(f"events in {out}: " + ", ".join(f"{count} {role}" for role, count in counts.items()))


def _show(rows: "list[Comparison]") -> None:
    typer.echo(f"{'aggregate':36}{'paper':>9}{'here':>9}{'may differ':>12}")
    for row in rows:
        typer.echo(f"{row.name:36}{row.fact:9.4f}{row.found:9.4f}{row.tolerance:12.3f}{'' if row.fits else '  differs too much'}")

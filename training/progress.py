"""Progress of a training run: log lines, and a progress bar within each epoch on a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from rich.console import Console
from rich.progress import Progress


class ProgressReporter(NamedTuple):
    """Callbacks of a training run; either may raise to stop it.

    Attributes:
        log: called with a line.
        update: called with the stage, the number of batches done, and the number of batches in the epoch.
    """

    log: Callable[[str], None] = lambda _: None
    update: Callable[[str, int, int], None] = lambda *_: None


SILENT = ProgressReporter()


@contextmanager
def progress_bar(log: Callable[[str], None], console: Console | None = None) -> Iterator[ProgressReporter]:
    """Yields a reporter that passes lines to `log` and, where standard error is a terminal, draws a bar below them."""
    console = Console(stderr=True) if console is None else console
    if not console.is_terminal:
        yield ProgressReporter(log)
        return
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("training", total=None)

        def update(stage: str, done: int, batches: int) -> None:
            progress.update(task, description=stage, completed=done, total=batches)

        yield ProgressReporter(log, update)

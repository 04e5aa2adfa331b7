"""What a training run tells while it goes on: lines, and a bar within each epoch where somebody looks at a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from rich.console import Console
from rich.progress import Progress


class ProgressReporter(NamedTuple):
    """`say` takes a line; `tick` the stage and which of how many batches is done. Both may raise to break off."""

    say: Callable[[str], None] = lambda _: None
    tick: Callable[[str, int, int], None] = lambda *_: None


SILENT = ProgressReporter()


@contextmanager
def shown(say: Callable[[str], None], console: Console | None = None) -> Iterator[ProgressReporter]:
    """Lines go to `say`; a bar under them where standard error is a terminal."""
    console = Console(stderr=True) if console is None else console
    if not console.is_terminal:
        yield ProgressReporter(say)
        return
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("training", total=None)

        def tick(stage: str, done: int, batches: int) -> None:
            progress.update(task, description=stage, completed=done, total=batches)

        yield ProgressReporter(say, tick)

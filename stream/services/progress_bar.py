"""A progress bar on standard error for long work."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(name: str, total: int, every: int = 500) -> Iterator[Callable[..., None]]:
    """Yields a function that takes how many are done, and the total if it was not known before. It redraws `every` so many."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task, shown = bar.add_task(name, total=total), 0

        def show(done: int, total: int = total) -> None:
            nonlocal shown
            if done - shown >= every or done == total:
                shown = done
                bar.update(task, completed=done, total=total)

        yield show

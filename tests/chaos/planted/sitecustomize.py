"""A planted bug, for the case of poison: put on PYTHONPATH it makes the step of a process raise on clicks with the tag "poison".

Python imports a module of this name at its start; the program itself knows nothing of it.
"""

from typing import Any

from stream.core import step

_step: Any = step
_fold_click = _step.fold_click


def _raise_on_poison(user: Any, click: Any, *more: Any) -> None:
    if "poison" in click.tags:
        raise ZeroDivisionError("a planted bug")
    _fold_click(user, click, *more)


_step.fold_click = _raise_on_poison

"""A planted bug for the poison case: on PYTHONPATH, it makes a process's step raise on clicks with the tag "poison".

Python imports a module of this name at startup; the program under test does not refer to it.
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

"""A planted bug for the poison case: on PYTHONPATH, it makes a process's step raise on clicks with the tag "poison".

Python imports a module of this name at startup; the program under test does not refer to it.
"""

from typing import Any

from stream.core import step
from stream.core.events import Click
from stream.core.fold import fold_event

_step: Any = step
assert _step.fold_event is fold_event, "the step folds events through another name: plant the bug there"


def _raise_on_poison(user: Any, event: Any, *more: Any) -> None:
    if isinstance(event, Click) and "poison" in event.tags:
        raise ZeroDivisionError("a planted bug")
    fold_event(user, event, *more)


_step.fold_event = _raise_on_poison

"""A worker goes on only if each partition number that it owns is held for all inputs: a user's clicks and calls must meet in one
place.
"""

from collections.abc import Iterable
from typing import Any

from stream.errors import IsthmusError


def check_ownership(assigned: Iterable[Any], inputs: Iterable[str]) -> None:
    """Raises IsthmusError where an input of an owned partition number is missing (Faust only warns)."""
    wanted = set(inputs)
    held: dict[int, set[str]] = {}
    for tp in assigned:
        if tp.topic in wanted:
            held.setdefault(tp.partition, set()).add(tp.topic)
    for number, topics in sorted(held.items()):
        if topics != wanted:
            missing = ", ".join(sorted(wanted - topics))
            raise IsthmusError(
                f"partition number {number} was assigned without {missing}: give all inputs the same partition count"
            )

"""The cases by name. Each case is a function that injects faults into a `Stage` while events flow."""

from typing import Final

from tests.chaos import applications, brokers, damage, erasures, inputs, members, names, surroundings
from tests.chaos.stage import Case

SHORT: Final = members.SHORT
CASES: Final[dict[str, Case]] = {
    case.name: case
    for case in (
        *(*members.CASES, *names.CASES, *applications.CASES, *brokers.CASES),
        *(*inputs.CASES, *erasures.CASES, *damage.CASES, *surroundings.CASES),
    )
}

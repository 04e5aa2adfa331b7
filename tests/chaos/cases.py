"""The cases by name. Each is a function of the stage: its faults, one after the other, while events flow."""

from typing import Final

from tests.chaos import brokers, inputs, members, surroundings
from tests.chaos.stage import Case

SHORT: Final = members.SHORT
CASES: Final[dict[str, Case]] = {case.name: case for case in (*members.CASES, *brokers.CASES, *inputs.CASES, *surroundings.CASES)}

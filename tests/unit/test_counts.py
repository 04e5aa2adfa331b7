"""What step and encoder count fits the metrics that are declared for it: a wrong label would raise after the outputs were sent."""

from itertools import product
from typing import Any, get_args

import pytest
from prometheus_client import Counter

from stream.core.outputs import Count
from stream.metrics import DECLARED, Metrics
from stream.text.encode_stage import EncoderCount


def values_of(kind: Any) -> list[str]:
    """The values of a literal type, of an enumeration, or an example of any text."""
    if kind is str:
        return ["text"]
    if isinstance(kind, type):
        return [str(member) for member in kind]  # type: ignore[attr-defined]
    return [value for inner in get_args(kind) for value in ([inner] if isinstance(inner, str) else values_of(inner))]


def counters_of(counts: Any) -> list[tuple[str, ...]]:
    """Every counter that a union of tuples allows, by name and label values."""
    return [counter for row in get_args(counts) for counter in product(*(values_of(part) for part in get_args(row)))]


@pytest.mark.parametrize("counts", [Count, EncoderCount], ids=["step", "encoder"])
def test_every_counter_has_its_metric(counts: Any) -> None:
    """A counter with as many labels; whatever is counted can be added to it."""
    counters = counters_of(counts)
    assert counters
    for name, *labels in counters:
        assert DECLARED[name].kind is Counter, name
        assert len(DECLARED[name].labels) == len(labels), name
    Metrics().count(dict.fromkeys(counters, 1))

"""What a check found, and how it is shown: as a table in plain text, or as JSON."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class Status(StrEnum):
    """How it is; a check that could not be made says so, for it says nothing of what it would have found."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    NOT_CHECKED = "not checked"


class Finding(NamedTuple):
    """What a check found.

    Attributes:
        check: Name of the check.
        status: How it is.
        found: What was found.
        to_do: What to do; empty where there is nothing to do, or `found` says it.
        details: Figures that the table leaves out.
    """

    check: str
    status: Status
    found: str
    to_do: str = ""
    details: Sequence[Mapping[str, Any]] = ()


def ok(check: str, found: str, details: Sequence[Mapping[str, Any]] = ()) -> Finding:
    return Finding(check, Status.OK, found, details=details)


def warning(check: str, found: str, to_do: str = "", details: Sequence[Mapping[str, Any]] = ()) -> Finding:
    return Finding(check, Status.WARNING, found, to_do, details)


def failed(check: str, found: str, to_do: str = "", details: Sequence[Mapping[str, Any]] = ()) -> Finding:
    return Finding(check, Status.FAILED, found, to_do, details)


def not_checked(check: str, found: str, to_do: str = "") -> Finding:
    return Finding(check, Status.NOT_CHECKED, found, to_do)


_SHOWN: Final = {Status.OK: "ok", Status.WARNING: "WARNING", Status.FAILED: "FAILED", Status.NOT_CHECKED: "not checked"}


def table(findings: Sequence[Finding]) -> str:
    """A line for each finding, under each one what to do, and their number at the end. Lines are not folded: they hold commands."""
    width = max((len(finding.check) for finding in findings), default=0)
    state = max(map(len, _SHOWN.values()))
    indent = "\n" + " " * (width + state + 4)
    lines = []
    for finding in findings:
        text = "\n".join([finding.found, *([f"-> {finding.to_do}"] if finding.to_do else [])])
        lines.append(f"{finding.check:<{width}}  {_SHOWN[finding.status]:<{state}}  {text.replace(chr(10), indent)}")
    return "\n".join([*lines, "", _summary(findings)])


def document(findings: Iterable[Finding]) -> str:
    """The same as JSON, with the details."""
    found = list(findings)
    rows = [{**finding._asdict(), "details": list(finding.details)} for finding in found]
    status = Status.FAILED if has_failed(found) else Status.WARNING if _has(found, Status.WARNING) else Status.OK
    return msgspec.json.format(msgspec.json.encode({"status": status, "findings": rows}), indent=2).decode()


def has_failed(findings: Iterable[Finding]) -> bool:
    return _has(findings, Status.FAILED)


def _has(findings: Iterable[Finding], status: Status) -> bool:
    return any(finding.status is status for finding in findings)


def _summary(findings: Iterable[Finding]) -> str:
    counts = Counter(finding.status for finding in findings)
    words = {Status.FAILED: "failed", Status.WARNING: "to look at", Status.NOT_CHECKED: "not checked", Status.OK: "ok"}
    return ", ".join(f"{counts[status]} {text}" for status, text in words.items() if counts[status] or status is Status.FAILED)

"""One line of a verdict on data: what was looked at, what came, what should have come, and how to fix it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "ok"]

_NAMED = 3  # examples in a message


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        check: What was looked at.
        severity: ``error`` (training on this data would go wrong), ``warning`` (look at it) or ``ok``.
        measured: What came.
        expected: What should have come.
        fix: What to do; ``""`` where all is well.
    """

    check: str
    severity: Severity
    measured: str
    expected: str
    fix: str = ""


def has_errors(findings: Sequence[Finding]) -> bool:
    """Whether anything must be fixed before training."""
    return any(finding.severity == "error" for finding in findings)


def some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")

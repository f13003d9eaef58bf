"""What parts of a recipe are made of: frozen sections and bounded numbers."""

from fractions import Fraction
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]


def word_of(on: str, off: str) -> BeforeValidator:
    """YAML reads bare ``on``, ``off``, ``yes`` and ``no`` as booleans; they mean the words here."""
    return BeforeValidator(lambda value: {True: on, False: off}[value] if isinstance(value, bool) else value)


def share_of(value: Any) -> Any:
    """``10%`` and ``1/16`` are the numbers they say."""
    if not isinstance(value, str):
        return value
    try:
        if value.strip().endswith("%"):
            return float(value.strip()[:-1]) / 100
        return float(Fraction(value))
    except (ValueError, ZeroDivisionError):
        raise ValueError("expected a share such as 10%, 1/16 or 0.1") from None


def count_or_range(value: Any) -> Any:
    """A whole number of at least 1, or two of them, the lesser first."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    is_counts = all(isinstance(item, int) and not isinstance(item, bool) and item >= 1 for item in values)
    if not is_counts or values != sorted(values) or (values != [value] and len(values) != 2):
        raise ValueError("expected a whole number of at least 1, or [least, most]")
    return value if values == [value] else tuple(values)


def file_name(value: str) -> str:
    """A name that a folder may have: no path, no line."""
    if not value.strip(" .") or not value.isprintable() or "/" in value or "\\" in value:
        raise ValueError("expected a name that a folder can have, without / and the like")
    return value


class Section(BaseModel):
    """A frozen part of a recipe; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, values: Any) -> Any:
        """``steps: yes`` would be one step."""
        for name, value in values.items() if isinstance(values, dict) else ():
            known = cls.model_fields.get(name)
            if isinstance(value, bool) and known is not None and known.annotation in (int, float):
                raise ValueError(f"{name}: expected a number, got {str(value).lower()}")
        return values

"""The kinds of value that settings have: types with ranges.

The upper bounds keep typing errors from TensorFlow, which may end the process over them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, PlainValidator, Strict

from cnn_sweeps.system.files import at_home

FORBID_UNKNOWN = ConfigDict(extra="forbid")
_LONGEST_SIDE = 8192


def _check_image_size(value: Any) -> Any:
    sides = value if isinstance(value, list) else [value, value]
    if len(sides) != 2 or not all(type(side) is int and 1 <= side <= _LONGEST_SIDE for side in sides):
        raise ValueError(
            f"should be a number of pixels or [height, width], each at least 1 and at most {_LONGEST_SIDE}"
        )
    return value


Count = Annotated[int, Strict(), Field(ge=1, le=10_000_000)]
Width = Annotated[int, Strict(), Field(ge=1, le=8192)]
Seed = Annotated[int, Strict(), Field(ge=0, lt=2**31)]
Fraction = Annotated[float, Strict(), Field(gt=0, lt=1)]
Rate = Annotated[float, Strict(), Field(ge=0, lt=1)]
Share = Annotated[float, Strict(), Field(ge=0, le=1)]
NonNegative = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]
Switch = Annotated[bool, Strict()]
Channels = Literal[1, 3]
ImageSize = Annotated[Any, PlainValidator(_check_image_size)]
Text = Annotated[str, Field(coerce_numbers_to_str=True)]
Folder = Annotated[Text, AfterValidator(at_home)]
Widths = Annotated[list[Width], Field(min_length=1, max_length=64)]
Digit = Annotated[int, Strict(), Field(ge=0, le=9)]

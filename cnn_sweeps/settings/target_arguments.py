"""What this project's own targets take: the arguments of each function that `data`, `model` or `optimizer` names."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, Strict, create_model

from cnn_sweeps.settings.backbones import BACKBONES
from cnn_sweeps.settings.kinds import (
    FORBID_UNKNOWN,
    Channels,
    Count,
    Digit,
    ImageSize,
    NonNegative,
    Positive,
    Rate,
    Seed,
    Share,
    Switch,
    Text,
    Width,
    Widths,
)

FOLDER = "cnn_sweeps.data.load_folder"
FROM_NOTHING = ("cnn_sweeps.models.build_cnn", "cnn_sweeps.models.build_residual")
PRETRAINED = "cnn_sweeps.models.build_pretrained"


def _arguments(**kinds: Any) -> type:
    """Return a model that checks a target's arguments: each has a kind or, if it may be left out, (kind, default)."""
    fields: Any = {name: kind if isinstance(kind, tuple) else (kind, ...) for name, kind in kinds.items()}
    model: type = create_model("Arguments", __config__=FORBID_UNKNOWN, **fields)
    return model


TARGET_ARGUMENTS: dict[str, type] = {
    "cnn_sweeps.data.load_digits": _arguments(
        classes=Annotated[list[Digit], Field(min_length=2)],
        one_vs_rest=Digit | None,
    ),
    FOLDER: _arguments(
        root=Text,
        image_size=ImageSize,
        channels=Channels,
        on_bad_image=Literal["error", "skip"],
        cache_dir=Text,
        follow_links=(Switch, False),
        positive_class=(Text | None, None),
    ),
    "cnn_sweeps.data.load_cifar10": _arguments(classes=Annotated[list[str], Field(min_length=2)]),
    "cnn_sweeps.data.load_synthetic": _arguments(
        num_images=Count,
        num_classes=Annotated[int, Strict(), Field(ge=2, le=1000)],
        image_size=ImageSize,
        channels=Channels,
        difficulty=Share,
        seed=Seed,
    ),
    "cnn_sweeps.models.build_cnn": _arguments(
        filters=Widths, dense_units=Widths, dropout=Rate, l2=Share, padding=Literal["same", "valid"]
    ),
    "cnn_sweeps.models.build_residual": _arguments(
        filters=Widths, blocks_per_stage=Annotated[int, Strict(), Field(ge=1, le=100)], dropout=Rate, l2=Share
    ),
    PRETRAINED: _arguments(
        backbone=Literal[tuple(BACKBONES)],
        alpha=Positive | None,
        weights=Text | None,
        dense_units=Annotated[list[Width], Field(max_length=64)],
        dropout=Rate,
        l2=Share,
        fine_tune=Annotated[int, Strict(), Field(ge=0)],
    ),
    "keras.optimizers.Adam": _arguments(beta_1=Rate, beta_2=Rate),
    "keras.optimizers.AdamW": _arguments(beta_1=Rate, beta_2=Rate, weight_decay=NonNegative),
    "keras.optimizers.SGD": _arguments(momentum=Rate, nesterov=Switch),
    "keras.optimizers.RMSprop": _arguments(rho=Rate, momentum=Rate),
}
"""What the targets in `conf/` take. A target of the user's own may take anything."""

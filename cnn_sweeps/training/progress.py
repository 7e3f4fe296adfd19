"""How far a training has come."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

if TYPE_CHECKING:
    import keras


@dataclass
class TrainingProgress:
    """How far a training has come; its next epoch depends on this, and on the variables of model and optimizer."""

    history: list[dict[str, float]] = field(default_factory=list)  # the metrics of each finished epoch
    best_epoch: int = 0  # counted from 1
    best_value: float | None = None  # the monitored metric in that epoch
    best_weights: list[NDArray[Any]] = field(default_factory=list)
    fine_tuned_after: int | None = None  # epochs that trained the head alone; None: fine-tuning has not begun
    best_epoch_before: int = 0  # the best epoch then; fine-tuning began with its weights

    @property
    def epochs_done(self) -> int:
        """Number of finished epochs."""
        return len(self.history)

    def begin_fine_tuning(self, model: keras.Model) -> None:
        """Go on with a network whose backbone is trained, too; the best epoch so far, if any, is the one to beat."""
        self.fine_tuned_after, self.best_epoch_before = self.epochs_done, self.best_epoch
        self.best_weights = model.get_weights() if self.best_weights else []

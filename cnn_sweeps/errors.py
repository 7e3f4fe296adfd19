"""The errors a user can fix; everything else is a bug and keeps its traceback."""

from cnn_sweeps.text.names import for_terminal
from cnn_sweeps.text.passwords import hide_passwords


class UserError(Exception):
    """What was wrong, what is allowed and how to fix it, in one printable line that holds no password."""

    def __init__(self, message: str) -> None:
        """Say it."""
        super().__init__(for_terminal(hide_passwords(message)))

    def _render_traceback_(self) -> list[str]:
        """Give what IPython shows of it: no traceback."""
        return [f"error: {self}"]


def describe_error(error: BaseException) -> str:
    """Give kind and text of an exception that is no UserError, as one line that is not too long."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


class ConfigError(UserError):
    """A setting is unknown, of the wrong type, out of range, or contradicts another."""


class DataError(UserError):
    """The images cannot be used as they are."""


class ModelError(UserError):
    """The network cannot be built for these images, or cannot be kept."""


class TrackingError(UserError):
    """The tracking store, or a record for it, cannot be used."""


class MovedError(TrackingError):
    """MLflow's database was moved or copied, and names files where they were before; the doctor mends that."""


class TrainingError(UserError):
    """Training cannot go on: the loss is no longer finite."""


class StudyError(UserError):
    """A sweep's study cannot be opened or continued."""


class SweepError(UserError):
    """A sweep was stopped: its trials fail, or nothing is left that runs them."""


class CommandError(UserError):
    """A command that was started from a notebook has failed."""


class OutageError(UserError):
    """A server, a database or a disk cannot be used for now; the same command goes on once it can."""


class TrackingOutageError(TrackingError, OutageError):
    """The tracking store does not answer for now."""


class StudyOutageError(StudyError, OutageError):
    """The study's storage does not answer for now."""


class DiskError(OutageError):
    """A disk is full, or cannot be written for another reason."""

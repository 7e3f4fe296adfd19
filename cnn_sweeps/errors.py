"""The errors that a user can fix. Everything else is a bug and keeps its traceback."""

from cnn_sweeps.text.names import for_terminal
from cnn_sweeps.text.passwords import hide_passwords


class UserError(Exception):
    """Says in one line what was wrong, what is allowed and how to fix it; shows no password."""

    def __init__(self, message: str) -> None:
        """Take the message; hide passwords in it, and escape what a terminal would act on."""
        super().__init__(for_terminal(hide_passwords(message)))

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows instead of a traceback."""
        return [f"error: {self}"]


def describe_error(error: BaseException) -> str:
    """Describe an exception that is no UserError in one line: its class and up to 300 characters of its text."""
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
    """MLflow's database was moved or copied, and still has the old paths of its files; the doctor mends that."""


class TrainingError(UserError):
    """Training cannot go on: the loss is no longer finite."""


class StudyError(UserError):
    """A sweep's study cannot be opened or continued."""


class SweepError(UserError):
    """A sweep was stopped: its trials fail, or no worker is left to run them."""


class CommandError(UserError):
    """A command that a notebook started has failed."""


class OutageError(UserError):
    """A server, a database or a disk cannot be used at the moment; later the same command will work."""


class TrackingOutageError(TrackingError, OutageError):
    """The tracking store does not answer at the moment."""


class StudyOutageError(StudyError, OutageError):
    """The study's storage does not answer at the moment."""


class DiskError(OutageError):
    """A disk is full, or cannot be written to for another reason."""

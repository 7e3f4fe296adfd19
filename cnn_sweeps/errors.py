"""The errors a user can fix; everything else is a bug and keeps its traceback.

UserError
 +-- ConfigError      a setting is unknown, of the wrong type, out of range, or contradicts another
 +-- DataError        the images cannot be used as they are
 +-- ModelError       the network cannot be built for these images
 +-- TrackingError    the tracking server or its store cannot be used
 +-- TrainingError    training cannot go on (the loss is no longer finite)
 +-- StudyError       a sweep's study cannot be opened or continued
 +-- SweepError       a sweep was stopped by its trials' failures
"""


class UserError(Exception):
    """What was wrong, what is allowed and how to fix it, in one line."""


class ConfigError(UserError):
    """A setting is unknown, of the wrong type, out of range, or contradicts another one."""


class DataError(UserError):
    """The images cannot be used as they are."""


class ModelError(UserError):
    """The network cannot be built for these images."""


class TrackingError(UserError):
    """The tracking server or its store cannot be used."""


class TrainingError(UserError):
    """Training cannot go on."""


class StudyError(UserError):
    """A sweep's study cannot be opened or continued."""


class SweepError(UserError):
    """A sweep was stopped by its trials' failures."""

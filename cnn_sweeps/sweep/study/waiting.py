"""A storage that waits while its database, server or disk is away."""

from __future__ import annotations

import copy
import itertools
import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, get_storage
from optuna.trial import FrozenTrial, TrialState, create_trial

from cnn_sweeps.errors import StudyOutageError
from cnn_sweeps.system.databases import describe_database_error, is_unavailable
from cnn_sweeps.system.patience import patiently

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")
# By name, since few studies need grpc. Optuna's proxy raises this, too, if its database is away.
_OUTAGE = "grpc.RpcError"
_METHODS = {name for name, each in vars(BaseStorage).items() if callable(each) and not name.startswith("_")}
MARK = "cnn_sweeps:request"  # system attribute of a trial; equal for trials that one request, sent again, has made


class PatientStorage(BaseStorage):
    """Passes requests on to another storage, and tries them again for some time during an outage.

    If the other side has carried out a request before the connection broke, the second request changes nothing: a new
    trial has a mark by which it is found again. If a queued trial was started by a lost request, nobody runs it, and
    it is recovered as a trial of a dead controller.
    """

    def __init__(self, storage: BaseStorage, description: str) -> None:
        """Take a storage, and its name in messages."""
        self._storage, self._description = get_storage(storage), description
        self._is_waiting = True

    @contextmanager
    def without_waiting(self) -> Iterator[None]:
        """Raise an error at once if there is an outage in the block."""
        before, self._is_waiting = self._is_waiting, False
        try:
            yield
        finally:
            self._is_waiting = before

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Make one trial, even if the request must be sent several times."""
        mark, template = uuid.uuid4().hex, copy.copy(template_trial or create_trial(state=TrialState.RUNNING))
        template.system_attrs = template.system_attrs | {MARK: mark}

        def make(*, is_repeated: bool) -> int:
            trials = self._storage.get_all_trials(study_id, deepcopy=False) if is_repeated else []
            made = [trial._trial_id for trial in trials if trial.system_attrs.get(MARK) == mark]
            return made[0] if made else self._storage.create_new_trial(study_id, template)

        return self._patiently(make)

    def _patiently(self, request: Callable[..., Answer]) -> Answer:
        """Send a request until it is answered or the time for that is over; `is_repeated` is false at the first try."""
        attempts = itertools.count()

        def once() -> Answer:
            try:
                return request(is_repeated=next(attempts) > 0)
            except Exception as error:
                if not may_pass(error):
                    raise
                raise StudyOutageError(
                    f"hydra.sweeper.storage={self._description}: cannot be used for now "
                    f"({describe_database_error(error)}); start it, or free space for it, and run the same command to "
                    "go on"
                ) from error

        if not self._is_waiting:
            return once()
        try:
            return patiently(once, log.warning)
        except StudyOutageError:
            self._is_waiting = False  # the process ends now, and must not wait again
            raise


def _requesting(name: str) -> Callable[..., Any]:
    def method(self: PatientStorage, *arguments: Any, **named: Any) -> Any:
        def request(*, is_repeated: bool) -> Any:
            try:
                return getattr(self._storage, name)(*arguments, **named)
            except UpdateFinishedTrialError:
                if is_repeated and name == "set_trial_state_values":
                    return True  # the answer to the first request was lost
                raise

        return self._patiently(request)

    return method


for _name in _METHODS - vars(PatientStorage).keys():
    setattr(PatientStorage, _name, _requesting(_name))
PatientStorage.__abstractmethods__ = frozenset()


def may_pass(error: BaseException) -> bool:
    """Return whether an error means that a database, server or disk is away for now, not that a request is wrong."""
    kinds = {f"{each.__module__}.{each.__name__}" for each in type(error).__mro__}
    return is_unavailable(error) or isinstance(error, OSError) or _OUTAGE in kinds

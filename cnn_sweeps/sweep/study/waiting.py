"""A study's storage that waits where the database, the server or the disk behind it is away for a while."""

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
# By name, since few studies are behind Optuna's gRPC proxy, which says so too if its database is away.
_OUTAGE = "grpc.RpcError"
_METHODS = {name for name, each in vars(BaseStorage).items() if callable(each) and not name.startswith("_")}
MARK = "cnn_sweeps:request"  # system attribute of a trial: equal for those that one request has made, resent by Optuna


class PatientStorage(BaseStorage):
    """Does what another storage does; what meets an outage is tried again for some time.

    Of a request that the other side had carried out before the connection broke, the second one changes nothing: a new
    trial is made with a mark, by which it is found again. A queued trial that was started by a lost request is run by
    nobody, so that it is recovered like that of a dead controller.
    """

    def __init__(self, storage: BaseStorage, description: str) -> None:
        """Of a storage, and what to call it in messages."""
        self._storage, self._description = get_storage(storage), description
        self._is_waiting = True

    @contextmanager
    def without_waiting(self) -> Iterator[None]:
        """Have an outage told at once in the block."""
        before, self._is_waiting = self._is_waiting, False
        try:
            yield
        finally:
            self._is_waiting = before

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Make a trial, once, however often that must be asked for."""
        mark, template = uuid.uuid4().hex, copy.copy(template_trial or create_trial(state=TrialState.RUNNING))
        template.system_attrs = template.system_attrs | {MARK: mark}

        def make(*, is_repeated: bool) -> int:
            trials = self._storage.get_all_trials(study_id, deepcopy=False) if is_repeated else []
            made = [trial._trial_id for trial in trials if trial.system_attrs.get(MARK) == mark]
            return made[0] if made else self._storage.create_new_trial(study_id, template)

        return self._patiently(make)

    def _patiently(self, request: Callable[..., Answer]) -> Answer:
        """Make a request, which is told whether it is repeated, until it is answered or patience is used up."""
        attempts = itertools.count()

        def once() -> Answer:
            try:
                return request(is_repeated=next(attempts) > 0)
            except Exception as error:
                if not may_pass(error):
                    raise
                raise StudyOutageError(
                    f"hydra.sweeper.storage={self._description}: cannot be used for now "
                    f"({describe_database_error(error)}); start it, or make space for it, and go on with the same "
                    "command"
                ) from error

        if not self._is_waiting:
            return once()
        try:
            return patiently(once, log.warning)
        except StudyOutageError:
            self._is_waiting = False  # whoever ends now has nothing more to wait for
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
    """Tell a database, server or disk that cannot be used for now from a request that is wrong."""
    kinds = {f"{each.__module__}.{each.__name__}" for each in type(error).__mro__}
    return is_unavailable(error) or isinstance(error, OSError) or _OUTAGE in kinds

"""Reads a study that a sweep has left, without changing it; or reopens it to mend it."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import OptunaError
from optuna.trial import FrozenTrial, TrialState

from cnn_sweeps.errors import StudyError
from cnn_sweeps.sweep.study.address import StudyAddress
from cnn_sweeps.sweep.study.definition import DEFINITION, check_definition, settings_id_of
from cnn_sweeps.sweep.study.ledger import TrialLedger, check_trials, numbers_in, owner_of
from cnn_sweeps.sweep.study.shared import SET_ASIDE, SharedStudy, is_abandoned
from cnn_sweeps.sweep.study.storage import open_patient_storage, open_to_read
from cnn_sweeps.system.locks import file_lock
from cnn_sweeps.system.owners import OwnerState, owner_state


@dataclass(frozen=True)
class StudySnapshot:
    """The content of a sweep's study.

    Attributes:
        directions: `minimize` or `maximize` for each objective.
        trials: by number.
        owners: of the running trials, by number.
        abandoned: numbers of the running trials whose controller is dead.
    """

    name: str
    user_attrs: dict[str, Any]
    directions: list[str]
    trials: list[FrozenTrial]
    owners: dict[int, OwnerState]
    abandoned: frozenset[int]

    @property
    def objectives(self) -> list[str]:
        """The objectives' names."""
        named = self.user_attrs[DEFINITION]["settings"].get("objective", [])
        return list(map(str, named)) if isinstance(named, list) else [str(named)]

    @property
    def set_aside(self) -> list[int]:
        """Numbers of the failed trials that count as tried again: the user was to correct their cause."""
        return numbers_in(self.user_attrs.get(SET_ASIDE))

    @property
    def ledger(self) -> TrialLedger:
        """The ledger of the trials."""
        minimize = self.directions[0] == "minimize" if len(self.directions) == 1 else None
        settings_id = settings_id_of(self.user_attrs[DEFINITION]["settings"])
        ledger = TrialLedger(minimize=minimize, settings_id=settings_id)
        ledger.read(self.trials)
        return ledger


def read_study(address: StudyAddress, dead_hosts: Collection[str] = ()) -> StudySnapshot:
    """Read a study without changing it; all processes on `dead_hosts` count as dead.

    Raises:
        StudyError: if the storage cannot be read, or holds no such study, or no sweep has made the study.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    name, opened, lock = address.name, open_to_read(address), address.lock_file("controllers")
    decision: AbstractContextManager[bool]
    if lock is not None and lock.exists():
        decision = file_lock(lock, wait=False)
    else:  # looking takes no lock of a server; so trials without an owner there are left to the sweep
        decision = nullcontext(lock is not None or not address.has_lock)
    with decision as is_nobody_deciding:
        try:
            study = optuna.load_study(study_name=name, storage=opened)
        except (KeyError, OptunaError) as error:
            raise StudyError(f"{name}: there is no such study in {address.shown}; name one that is there") from error
        user_attrs, trials = study.user_attrs, study.get_trials(deepcopy=False)
    if DEFINITION not in user_attrs:
        raise StudyError(f"{name}: no sweep of cnn-sweeps has made this study; name another one")
    check_definition(name, user_attrs[DEFINITION])
    check_trials(name, trials)
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    signed_or_left = [trial for trial in running if owner_of(trial) or is_nobody_deciding]
    return StudySnapshot(
        name=name,
        user_attrs=user_attrs,
        directions=[each.name.lower() for each in study.directions],
        trials=trials,
        owners={trial.number: owner_state(owner_of(trial), dead_hosts) for trial in running},
        abandoned=frozenset(trial.number for trial in signed_or_left if is_abandoned(trial, address, dead_hosts)),
    )


def reopen_study(address: StudyAddress) -> SharedStudy:
    """Open the study to mend it.

    Raises:
        StudyError: if the storage cannot be written.
    """
    return SharedStudy(optuna.load_study(study_name=address.name, storage=open_patient_storage(address)), address)

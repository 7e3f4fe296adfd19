"""Sweeps as a user starts them, and what they leave in the study, in MLflow and on disk."""

import csv
import os
import re
import shlex
import signal
from pathlib import Path
from statistics import mean, stdev
from types import SimpleNamespace

import mlflow
import numpy as np
import pytest
from conftest import TINY, compose, run_in_this_process
from PIL import Image
from tiny_sweeps import (
    IN_THIS_PROCESS,
    STUDY,
    SWEEP,
    all_runs,
    child_runs,
    finish,
    parent_run,
    run_of,
    started,
    study_in,
    sweep_folder,
    sweep_log,
    test_metrics,
    wait_until,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

FOUR_TRIALS = [*SWEEP, IN_THIS_PROCESS, "hydra.sweeper.n_trials=4", "tracking.experiment_name=four trials"]

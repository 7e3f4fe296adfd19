"""How close do two workers come to the ideal schedule if one trial takes ten times as long as the others?

    python benchmarks/no_barrier.py [--repeats 3]

The jobs only sleep: one for 20 s, ten for 2 s. On two slots the ideal is 20 s. The time runs from the first trial's
start to the last trial's end. So it includes composing and sending each job, but not the start of the program.
"""

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import optuna
from shared import ArgumentParser, load_study, spread

SLOW_S, FAST_S, NUM_FAST = 20, 2, 10
APPLICATION = """
import time

import hydra


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(config):
    time.sleep(config.slow_s if config.index == 1 else config.fast_s)
    return config.index


if __name__ == "__main__":
    main()
"""
CONFIG = """
defaults: [_self_, override hydra/sweeper: optuna, override hydra/launcher: workers]
index: 0
slow_s: 0
fast_s: 0
hydra:
  sweep: {dir: sweep}
  sweeper: {study_name: bench, storage: study.journal, n_jobs: 2}
"""


def measure_s(slow_s: float = SLOW_S, fast_s: float = FAST_S, num_fast: int = NUM_FAST) -> float:
    """Run the sweep; return the seconds from the first trial's start to the last trial's end."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "app.py").write_text(APPLICATION)
        (folder / "config.yaml").write_text(CONFIG)
        command = [sys.executable, "app.py", "--multirun", f"index=range(0,{num_fast + 1})"]
        command += [f"slow_s={slow_s}", f"fast_s={fast_s}"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        trials = load_study(folder / "study.journal", "bench").trials
        return (max(t.datetime_complete for t in trials) - min(t.datetime_start for t in trials)).total_seconds()


def main() -> None:
    num_repeats = ArgumentParser(__doc__).parse().repeats
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seconds = [measure_s() for _ in range(num_repeats)]
    ideal_s = max(SLOW_S, (SLOW_S + NUM_FAST * FAST_S) / 2)
    ratio = statistics.median(seconds) / ideal_s
    print(f"{spread(seconds, '.1f')} s, {ratio:.3f} of the ideal {ideal_s:.0f} s")


if __name__ == "__main__":
    main()

"""How long do commands take that train nothing, compared with importing Hydra alone?

python benchmarks/startup.py [--repeats 9]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from shared import ArgumentParser, spread

COMMANDS = {
    "import hydra": ["-c", "import hydra"],
    "--help": ["-m", "cnn_sweeps.train", "--help"],
    "--cfg job": ["-m", "cnn_sweeps.train", "--cfg", "job"],
    "model.l3=1": ["-m", "cnn_sweeps.train", "model.l3=1"],
}


def main(repeats: int) -> None:
    """Run all commands in turn and print the table."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(repeats):
        for name, arguments in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, *arguments], capture_output=True, check=False)
            seconds[name].append(time.perf_counter() - started)
    base = statistics.median(seconds["import hydra"])
    print(f"{'':14}{'wall s, median (lowest-highest)':>34}{'ratio':>8}")
    for name, values in seconds.items():
        print(f"{name:14}{spread(values, '.3f'):>34}{statistics.median(values) / base:8.2f}")


if __name__ == "__main__":
    main(ArgumentParser(__doc__, num_repeats=9).parse().repeats)

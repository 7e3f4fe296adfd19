"""A Dask cluster whose workers are SLURM jobs: prints the scheduler's address and runs until it is interrupted.

pip install -e '.[slurm]'
python docs/slurm_cluster.py 8 --cores 4 --memory 16GB --partition=gpu --gpus=1 --time=8:00:00

Each of the 8 jobs is one worker, which has the cores and the memory. What else is given goes to sbatch.
The cluster asks for no certificates: every user of the nodes can run programs in it as you.
"""

from __future__ import annotations

import argparse
import signal
import sys

from dask_jobqueue import SLURMCluster


def main() -> None:
    """Run the cluster."""
    parser = argparse.ArgumentParser()
    parser.add_argument("jobs", type=int)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--memory", default="4GB")
    settings, directives = parser.parse_known_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # which cancels the jobs
    with SLURMCluster(
        cores=settings.cores,  # a worker runs one trial at a time, on all of them
        memory=settings.memory,
        processes=1,
        job_extra_directives=directives,
        log_directory="outputs/slurm",
    ) as cluster:
        cluster.scale(jobs=settings.jobs)
        print(cluster.scheduler_address, flush=True)
        signal.pause()


if __name__ == "__main__":
    main()

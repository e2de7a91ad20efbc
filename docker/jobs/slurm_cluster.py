"""Slurm: one command on many nodes. Workers are Slurm jobs (dask-jobqueue); the command deals its fits to them.

    pip install '.[cluster]' dask-jobqueue
    export JOBS=8 CORES=4 MEMORY=16GiB TIME=04:00:00
    python docker/jobs/slurm_cluster.py run --train data/de_train.parquet --test data/id_map.csv --out runs/mine

It runs where jobs are submitted, or in a job of its own that lasts as long as the command, with the environment active
that the workers shall have, in a folder that all nodes see. There are JOBS jobs with CORES workers each. DIRECTIVES are
more lines of #SBATCH, separated by semicolons ("--partition=long; --account=me"). INTERFACE is the network between the
nodes, such as ib0. The jobs end when the command ends. When anything dies, the same line goes on from finished fits.
"""

import os
import subprocess
import sys

from dask_jobqueue import SLURMCluster


def main() -> int:
    """Start the workers, run the command on them, and return its exit code."""
    cores = int(os.environ.get("CORES", "4"))
    directives = [line.strip() for line in os.environ.get("DIRECTIVES", "").split(";") if line.strip()]
    with SLURMCluster(
        cores=cores,
        processes=cores,  # a worker a core: a fit takes one
        memory=os.environ.get("MEMORY", "16GiB"),
        walltime=os.environ.get("TIME", "04:00:00"),
        interface=os.environ.get("INTERFACE"),
        job_extra_directives=directives,
        log_directory="rapids-perturb-workers",
    ) as cluster:
        cluster.scale(jobs=int(os.environ.get("JOBS", "2")))
        cluster.wait_for_workers(1)  # however long the queue is
        command = [
            sys.executable,
            "-m",
            "rapids_pipeline",
            *sys.argv[1:],
            "--cluster",
            cluster.scheduler_address,
        ]
        return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(main())

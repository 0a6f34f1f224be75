"""Run one worker of a sweep. ``convatlas sweep`` starts it on this machine or in a job of a SLURM array.

python -m convatlas.sweep [--ranks N | --srun] DIRECTORY NAME [OVERRIDE …]
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from convatlas.errors import ReportedError
from convatlas.jobs.launch import srun_command, train_command
from convatlas.sweep.definition import open_sweep
from convatlas.sweep.trial import Training
from convatlas.sweep.worker import work
from convatlas.training.trainer import quiet_libraries
from convatlas.utils.signals import StopFlag, ignore_stop_signals


def main() -> int:
    """Run trials until none is left; return the exit status."""
    stop = StopFlag()
    stop.listen()
    parser = argparse.ArgumentParser(prog="convatlas.sweep", description=__doc__)
    parser.add_argument("directory", type=Path, help="directory of the sweep")
    parser.add_argument("name", help="name of the worker; a requeued job keeps it")
    parser.add_argument("--ranks", type=int, default=1, help="processes of each training on this machine")
    parser.add_argument("--srun", action="store_true", help="train on all nodes of the SLURM job")
    parser.add_argument("overrides", nargs="*", help="of every training, in addition to those of the sweep")
    arguments = parser.parse_args()
    quiet_libraries()
    launch = srun_command if arguments.srun else partial(train_command, ranks=arguments.ranks)
    try:
        sweep = open_sweep(arguments.directory)
        return work(sweep, arguments.name, Training(sweep, arguments.overrides, launch, stop), stop)
    except ReportedError as error:
        sys.stderr.write(f"convatlas: error: {error}\n")
        return error.status


if __name__ == "__main__":
    exit_status = main()
    ignore_stop_signals()  # until here a signal only sets the stop flag
    sys.exit(exit_status)

"""``torchrun`` with our own ends: its exit status is that of the process that failed, which has said why.

A process that is killed (for memory, by a device that fails) takes the others with it; all are started again, and go on
from the last saved state.
"""

from __future__ import annotations

import logging
import signal
import sys

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from medseg.progress import say

USERS_ERROR = 2
# Times that the processes of one command are started again.
RESTARTS = 3


def main() -> None:
    """Run the command line of ``torchrun``; again, up to ``RESTARTS`` times, where a process was killed by a signal.

    Exit status 2 if a process ended so, as for a user's error; 1 for other errors; 128 and its number for a signal that
    this process was sent.
    """
    # Reports of its own on how processes ended, and on those that it ended then.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    for restart in range(RESTARTS + 1):
        try:
            run.run(run.parse_args(sys.argv[1:]))  # type: ignore[no-untyped-call]
            return
        except ChildFailedError as error:
            codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
            if USERS_ERROR in codes.values():
                sys.exit(USERS_ERROR)
            # SIGTERM is what torchrun ends the others with.
            codes = {rank: code for rank, code in codes.items() if code not in (0, -signal.SIGTERM)}
            killed = {rank: signal.Signals(-code).name for rank, code in codes.items() if code < 0}
            if not killed:
                sys.exit(1)
            said = ", ".join(f"process {rank} was killed by {name}" for rank, name in sorted(killed.items()))
            if restart == RESTARTS:
                say(
                    f"{said}; after {RESTARTS} starts again the training ends. Its state is saved: if memory ran "
                    "out, set a smaller models.NAME.plan.batch or fewer workers, and give the same command"
                )
                sys.exit(1)
            say(f"{said}; all start again and go on from the last saved state ({restart + 1} of {RESTARTS})")
        except SignalException as error:
            sys.exit(128 + error.sigval)


if __name__ == "__main__":
    main()

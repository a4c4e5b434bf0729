"""``torchrun`` with our own ends: its exit status is that of the process that failed, which has said why."""

from __future__ import annotations

import logging
import sys

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

USERS_ERROR = 2


def main() -> None:
    """Run the command line of ``torchrun``.

    Exit status 2 if a process ended so, as for a user's error; 1 for other errors; 128 and its number for a signal.
    """
    # Reports of its own on how processes ended, and on those that it ended then.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        run.run(run.parse_args(sys.argv[1:]))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        sys.exit(USERS_ERROR if USERS_ERROR in {one.exitcode for one in error.failures.values()} else 1)
    except SignalException as error:
        sys.exit(128 + error.sigval)


if __name__ == "__main__":
    main()

"""A process ends with the one that started it, however that one ended."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time

# How often a process looks whether its parent still lives, where nothing tells it.
LOOK_S = 0.5


def end_with_parent() -> None:
    """From now on, end this process at once when its parent ends, even while a call hangs.

    A kill of the parent does not reach a process that ``torchrun`` started (it has a session of its own), and one that
    reads data holds the lock on the folder of the training, which must not outlive it.
    """
    threading.Thread(target=_exit_after, args=(os.getppid(),), daemon=True).start()


def _exit_after(parent: int) -> None:
    if (started_by := multiprocessing.parent_process()) is not None:
        started_by.join()
    else:
        while os.getppid() == parent:
            time.sleep(LOOK_S)
    os._exit(1)

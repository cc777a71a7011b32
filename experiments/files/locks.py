"""Locks on files. A lock ends with the process that holds it, even if it is killed."""

import fcntl
import os
from pathlib import Path


def take(path: Path | str, *, shared: bool = False, wait: bool = False) -> int | None:
    """Returns the descriptor that holds a lock; closing it releases the lock.

    Args:
        path: the lock's file, which is created if it is missing.
        shared: whether other shared locks may be held at the same time.
        wait: whether to wait while another process holds it; otherwise the call
            returns None then.

    Raises:
        OSError: the file cannot be created or opened.
    """
    flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o666)
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return descriptor

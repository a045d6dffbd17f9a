"""One folder for everything temporary of a server; the next server removes it if this one is killed.

The master and its workers hold a lock on the folder, which the kernel drops with the last of them.
"""

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

_PREFIX = "ruo-scratch-"


def make_scratch() -> Path:
    """Make a folder for the temporary files of this process and its forks; those that killed servers have left are removed."""
    parent = Path(tempfile.gettempdir())
    for left in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            descriptor = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(descriptor).st_uid == os.geteuid():
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # an OSError while its server lives
                    shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(descriptor)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        with suppress(OSError):  # a file system without locks, or a server that starts now has removed the folder
            fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_EX)
        if folder.exists():
            tempfile.tempdir = str(folder)
            return folder

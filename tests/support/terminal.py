"""Programs that believe to be on a terminal."""

import os
import pty
import subprocess
from pathlib import Path

from .wait import TIMEOUT


def on_terminal(*command: str | Path, env: dict[str, str]) -> tuple[int, str]:
    """Exit code, and what the command wrote to the terminal that its three streams are."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    written = b""
    try:
        while chunk := os.read(ours, 4096):
            written += chunk
    except OSError:  # how Linux says that nobody is there any more
        pass
    finally:
        os.close(ours)
    return process.wait(TIMEOUT), written.decode()

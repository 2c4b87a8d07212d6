"""A data set that travels to other processes, which open its files themselves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from vitral_extract.dataset import Dataset
from vitral_extract.dataset import open as open_dataset


class Reopened:
    """Gives the data set of a folder, opened by the process that asks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._held: tuple[int, Dataset] | None = None

    def __call__(self) -> Dataset:
        """The data set."""
        if self._held is None or self._held[0] != os.getpid():
            self._held = (os.getpid(), open_dataset(self._folder))
        return self._held[1]

    def __getstate__(self) -> dict[str, Any]:
        """Only the folder: open files do not travel."""
        return {"_folder": self._folder, "_held": None}

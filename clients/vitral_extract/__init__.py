"""Pictures in, a data set of embeddings out, exactly once."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vitral_extract.dataset import Dataset, open

__all__ = ["Dataset", "open"]


def __getattr__(name: str) -> object:
    # The command's arguments are read without importing Arrow.
    if name in __all__:
        from vitral_extract import dataset

        return getattr(dataset, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

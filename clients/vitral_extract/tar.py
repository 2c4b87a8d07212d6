"""Pictures in tar shards, as WebDataset writes them: uncompressed, so that each can be reached alone."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

from vitral.errors import InvalidArgumentError
from vitral_extract.item import UNKNOWN, Item, Kind, printable


def items(path: Path, suffixes: tuple[str, ...]) -> Iterator[Item]:
    """Every member that is a picture by its ending, in order; its id is `SHARD/MEMBER`.

    Links inside the shard have no bytes of their own: they are listed, and fail when their turn comes.

    Raises:
        InvalidArgumentError: it is no tar file, damaged or cut short.
    """
    try:
        with tarfile.open(path, "r:") as shard:
            while (member := shard.next()) is not None:
                # Or it keeps every header of the shard.
                shard.members.clear()  # type: ignore[attr-defined]
                if member.name.lower().endswith(suffixes) and not member.isdir():
                    yield _item(path, member)
            _demand_end(path, shard.offset)
    except tarfile.TarError as error:
        raise InvalidArgumentError(f"{path} cannot be read as a tar shard: {error}") from None


def _item(path: Path, member: tarfile.TarInfo) -> Item:
    name = printable(f"{path.name}/{member.name.removeprefix('./')}")
    whole = member.isreg() and not member.issparse()
    return Item(name, Kind.SLICE, str(path), member.size if whole else UNKNOWN, member.offset_data)


def _demand_end(path: Path, offset: int) -> None:
    """Tarfile takes a damaged header, and the end of the file, for the end of the archive."""
    with path.open("rb") as file:
        file.seek(offset)
        block = file.read(tarfile.BLOCKSIZE)
    if block != bytes(tarfile.BLOCKSIZE):
        what = "a damaged header" if block else "the end of the file and no end mark: it is cut short"
        raise InvalidArgumentError(f"{path} cannot be read as a tar shard: at byte {offset} there is {what}")

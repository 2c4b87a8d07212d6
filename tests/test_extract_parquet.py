"""Pictures in Parquet files: bytes, structs, paths, and files that say too little."""

from __future__ import annotations

import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vitral.errors import ImageError, InvalidArgumentError
from vitral_extract import sources
from vitral_extract.item import Item
from vitral_extract.parquet import Columns


def listed(*names: str | Path, columns: Columns | None = None) -> list[Item]:
    return list(sources.items([str(name) for name in names], columns))


def write(path: Path, data: bytes | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(path.name.encode(errors="surrogateescape") if data is None else data)
    return path


def table(path: Path, /, *, group: int | None = None, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return path


def test_parquet_bytes_structs_and_paths(tmp_path: Path) -> None:
    data = [f"picture {number}".encode() for number in range(100)]
    names = [f"id-{number}" for number in range(100)]
    for number, one in enumerate(data):
        write(tmp_path / "in" / f"{number}.jpg", one)
    paths = [f"in/{number}.jpg" for number in range(100)]
    struct = [{"bytes": one, "path": "x"} for one in data]
    files = {
        "bytes": table(tmp_path / "a.parquet", group=7, id=names, image=data, path=paths),
        "large": table(tmp_path / "b.parquet", key=pa.array(names, pa.large_string()), image=data),
        "struct": table(tmp_path / "c.parquet", group=40, label=list(range(100)), image=struct),
        "paths": table(tmp_path / "d.parquet", file_name=paths, id=list(range(100))),
    }

    found = {kind: listed(path) for kind, path in files.items()}

    for kind, items in found.items():
        assert [item.read() for item in items] == data, kind
    assert [item.id for item in found["bytes"]] == [item.id for item in found["large"]] == names
    assert [item.id for item in found["struct"]] == [f"c.parquet#{number}" for number in range(100)]
    assert [item.id for item in found["paths"]] == [str(number) for number in range(100)]
    chosen = listed(files["bytes"], columns=Columns(image="path", id="path"))
    assert [item.id for item in chosen] == paths
    assert [item.read() for item in chosen] == data


def test_parquet_rows_are_read_by_threads_in_any_order(tmp_path: Path) -> None:
    data = [f"{number}".encode() for number in range(3000)]
    items = listed(table(tmp_path / "a.parquet", group=1000, image=data))
    wrong: list[int] = []

    def read(start: int, step: int) -> None:
        wrong.extend(number for number in range(start, 3000, step) if items[number].read() != data[number])

    threads = [threading.Thread(target=read, args=(start, 4)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    read(2999, -700)

    assert wrong == []


def test_parquet_rows_without_a_picture_fail_alone(tmp_path: Path) -> None:
    struct = [{"bytes": b"1"}, {"bytes": None}, None, {"bytes": b"4"}]
    items = listed(table(tmp_path / "a.parquet", image=struct))
    missing = listed(table(tmp_path / "b.parquet", path=["a.parquet", "no", None]))

    assert [items[0].read(), items[3].read()] == [b"1", b"4"]
    for item, said in (
        (items[1], "row 1 of row group 0"),
        (items[2], "there is no picture"),
        (missing[1], "No"),
    ):
        with pytest.raises(ImageError, match=said):
            item.read()
    with pytest.raises(ImageError, match="no regular file"):
        missing[2].read()


@pytest.mark.parametrize(
    ("columns", "chosen", "said"),
    [
        ({"label": [1]}, Columns(), "has no column of bytes or paths; it has label"),
        ({"a": [b"1"], "b": [b"1"]}, Columns(), "has several columns of bytes: name one of a, b"),
        ({"a": [b"1"]}, Columns(image="x"), "has no column x; it has a"),
        ({"a": [b"1"]}, Columns(id="x"), "has no column x; it has a"),
        ({"a": [b"1"], "n": [1]}, Columns(image="n"), "column n of .* is int64: neither bytes nor paths"),
        (
            {"a": [b"1"], "n": [0.5]},
            Columns(id="n"),
            "column n of .* is double: ids are text or whole numbers",
        ),
        ({"a": [b"1", b"2"], "id": ["1", None]}, Columns(), "row 1 of .* has no id"),
    ],
)
def test_parquet_files_that_say_too_little_are_refused(
    tmp_path: Path, columns: dict[str, object], chosen: Columns, said: str
) -> None:
    path = table(tmp_path / "a.parquet", **columns)

    with pytest.raises(InvalidArgumentError, match=said):
        listed(path, columns=chosen)


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", image=[b"1"])
    path.write_bytes(path.read_bytes()[:-3])

    with pytest.raises(InvalidArgumentError, match="cannot be read as Parquet"):
        listed(path)

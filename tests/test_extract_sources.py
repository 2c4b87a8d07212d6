"""What a SOURCE stands for: every picture once, under a name that stays."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vitral.errors import ImageError, InvalidArgumentError
from vitral_extract import listing, sources
from vitral_extract.item import UNKNOWN, Item
from vitral_extract.parquet import Columns

NOBODY = 65534


def listed(*names: str | Path, columns: Columns | None = None) -> list[Item]:
    return list(sources.items([str(name) for name in names], columns))


def ids(*names: str | Path) -> list[str]:
    return [item.id for item in listed(*names)]


def write(path: Path, data: bytes | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(path.name.encode(errors="surrogateescape") if data is None else data)
    return path


def tar(path: Path, *names: str, form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as shard:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name.encode())
            shard.addfile(member, io.BytesIO(name.encode()))
    return path


@contextmanager
def unprivileged() -> Iterator[Path]:
    """A folder, and no right to what is closed: root may read everything."""
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        if root:
            os.seteuid(NOBODY)
        try:
            yield Path(name)
        finally:
            if root:
                os.seteuid(0)


def test_folders_are_listed_whole_in_one_order_under_any_name(tmp_path: Path) -> None:
    names = ["b/2.JPG", "b/10.png", "a b/그림.jpeg", "two\nlines.webp", "é.tif", "c/d/e/f.gif", "#;'\".bmp"]
    for name in names:
        write(tmp_path / name)
    write(tmp_path / "notes.txt"), write(tmp_path / "b" / "jpg")
    (tmp_path / "empty" / "deeper").mkdir(parents=True)

    found = listed(tmp_path)

    assert [item.id for item in found] == sorted(names, key=lambda name: name.split("/"))
    assert [item.read() for item in found] == [item.id.split("/")[-1].encode() for item in found]
    assert [item.size for item in found] == [len(item.read()) for item in found]
    assert [item.id for item in listed(f"{tmp_path}/b/..")] == [item.id for item in found]


def test_names_that_are_no_text_are_listed_and_read(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.jpg")).write_bytes(b"x")

    facts = listing.write(listed(tmp_path), tmp_path / "listing", {}, lambda count: None)
    [item] = listing.Listing(tmp_path / "listing")

    assert facts.count == 1
    assert item.id == "\\udcff\\udcfe.jpg"
    assert item.read() == b"x"


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    write(tmp_path / "far" / "1.jpg")
    folder = tmp_path / "near"
    write(folder / "2.jpg")
    (folder / "3.jpg").symlink_to("2.jpg")
    (folder / "gone.jpg").symlink_to("nowhere")
    (folder / "linked").symlink_to(tmp_path / "far")
    (folder / "self").symlink_to(".")
    (tmp_path / "far" / "up").symlink_to(folder)

    found = {item.id: item for item in listed(folder)}

    assert list(found) == ["2.jpg", "3.jpg", "gone.jpg", "linked/1.jpg"]
    assert found["3.jpg"].read() == b"2.jpg"
    with pytest.raises(ImageError, match=r"gone\.jpg: No such file") as caught:
        found["gone.jpg"].read()
    assert caught.value.cause == "unreadable"


def test_what_is_no_regular_file_fails_and_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")

    for item in (*listed(tmp_path), *listed(tmp_path / "pipe.jpg"), *listed("/dev/zero")):
        assert item.size == UNKNOWN
        with pytest.raises(ImageError, match="no regular file"):
            item.read()


def test_what_may_not_be_read_is_said() -> None:
    with unprivileged() as folder:
        closed = write(folder / "in" / "1.jpg")
        closed.chmod(0)
        [item] = listed(folder)
        with pytest.raises(ImageError, match="Permission denied"):
            item.read()
        closed.parent.chmod(0)
        with pytest.raises(InvalidArgumentError, match=r"cannot list folder .*/in: Permission denied"):
            listed(folder)
        closed.parent.chmod(0o755)


def test_lists_name_one_file_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "그 림.jpg", "no-ending"):
        write(tmp_path / name)
    lines = "\ufeffa.jpg\r\n\n./그 림.jpg\n  \nno-ending\nmissing.jpg".encode()
    write(tmp_path / "list.txt", lines)
    expected = ["a.jpg", "그 림.jpg", "no-ending", "missing.jpg"]

    assert ids("list.txt") == expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    found = listed("-")
    assert [item.id for item in found] == expected
    monkeypatch.chdir("/")
    assert [item.read() for item in found[:3]] == [b"a.jpg", "그 림.jpg".encode(), b"no-ending"]
    assert found[3].size == UNKNOWN
    with pytest.raises(InvalidArgumentError, match="standard input can be one source only"):
        listed("-", "-")


def test_globs_and_ranges_name_files_shards_and_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("x/1.jpg", "x/2.jpg", "x/deep/3.jpg", "y/4.jpg", "[z].jpg"):
        write(tmp_path / name)
    for number in range(8, 12):
        tar(tmp_path / f"shard-{number:03}.tar", f"{number}.jpg")

    assert ids("x/*.jpg") == ["x/1.jpg", "x/2.jpg"]
    assert ids("**/*.jpg") == ["[z].jpg", "x/1.jpg", "x/2.jpg", "x/deep/3.jpg", "y/4.jpg"]
    assert ids("x/**") == ["x/1.jpg", "x/2.jpg", "x/deep/3.jpg"]
    assert ids("[xy]") == ["1.jpg", "2.jpg", "deep/3.jpg", "4.jpg"]
    assert ids("[z].jpg") == ["[z].jpg"]
    assert ids("shard-{008..011}.tar") == [f"shard-{n:03}.tar/{n}.jpg" for n in range(8, 12)]
    for absent in ("z*.jpg", "nothing", "shard-{011..012}.tar"):
        with pytest.raises(InvalidArgumentError, match=r"nothing matches|there is no file or folder"):
            listed(absent)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_members_of_tar_shards_are_read_alone(tmp_path: Path, form: int) -> None:
    long = f"{'d' * 90}/그림.jpg" if form != tarfile.USTAR_FORMAT else "d/그림.jpg"
    path = tar(tmp_path / "s.tar", "./000.jpg", "000.cls", "000.json", "a b/001.PNG", long, form=form)

    found = listed(path)

    assert [item.id for item in found] == ["s.tar/000.jpg", "s.tar/a b/001.PNG", f"s.tar/{long}"]
    assert [item.read().decode() for item in found] == ["./000.jpg", "a b/001.PNG", long]


def test_links_in_a_shard_are_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w") as shard:
        for name, kind in (
            ("a.jpg", tarfile.REGTYPE),
            ("b.jpg", tarfile.LNKTYPE),
            ("c.jpg", tarfile.SYMTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "a.jpg" if kind != tarfile.REGTYPE else ""
            shard.addfile(member)

    found = listed(path)

    assert [item.size for item in found] == [0, UNKNOWN, UNKNOWN]
    with pytest.raises(ImageError, match=r"s\.tar/b\.jpg is a link inside"):
        found[1].read()


def test_a_shard_that_is_damaged_or_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tar(tmp_path / "s.tar", *(f"{number}.jpg" for number in range(4)))
    whole = path.read_bytes()
    for length in (*range(0, 4096, 128), 700, 1500):
        path.write_bytes(whole[:length])
        with pytest.raises(InvalidArgumentError, match="cannot be read as a tar shard"):
            listed(path)
    path.write_bytes(whole[:1024] + b"\x07" * 512 + whole[1536:])
    with pytest.raises(InvalidArgumentError, match="at byte 1024 there is a damaged header"):
        listed(path)
    for name in ("s.tar.gz", "s.tgz"):
        with pytest.raises(InvalidArgumentError, match="compressed"):
            listed(shutil.copy(path, tmp_path / name))


def test_two_pictures_of_one_id_are_named(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "b/1.jpg", "b/2.jpg"):
        write(tmp_path / name)
    items = listed(tmp_path / "a", tmp_path / "b")

    with pytest.raises(InvalidArgumentError) as caught:
        listing.write(items, tmp_path / "listing", {}, lambda count: None)

    said = f"1 ids stand for two pictures each: 1.jpg ({tmp_path}/a/1.jpg and {tmp_path}/b/1.jpg)"
    assert str(caught.value) == said


def test_nothing_is_no_source(tmp_path: Path) -> None:
    for source in (tmp_path, write(tmp_path / "none.txt", b"\n")):
        with pytest.raises(InvalidArgumentError, match="hold no picture"):
            listing.write(listed(source), tmp_path / "listing", {}, lambda count: None)


LONG = """
import sys
from pathlib import Path
from vitral_extract import listing, sources

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

seen = []
where = Path(sys.argv[1])
items = sources.items([sys.argv[1]])
facts = listing.write(items, where.parent / "listing", {}, lambda _: seen.append(resident()))
assert facts.count == 300_000, facts
print(max(seen[-3:]) - seen[1])
"""


def test_memory_does_not_grow_with_the_list(tmp_path: Path) -> None:
    names = [f"data/{number % 997:04}/a-picture-of-something-{number:08}" for number in range(300_000)]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": names, "image": [b"no picture"] * len(names)}), path)

    done = subprocess.run([sys.executable, "-c", LONG, path], capture_output=True, text=True, check=True)

    assert float(done.stdout) < 24.0  # MiB; the names alone are 15 MB on disk and three times that in Python

"""The same data set through servers: one, two, one that goes away, one that has another model."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from extracting import Silent, entry, finished, hashes, pictures, run, start
from PIL import Image
from serving import Running, running

import vitral_extract
from vitral.errors import FingerprintMismatchError, UnavailableError
from vitral_export import export
from vitral_export.modules import PatchEmbedding
from vitral_extract.outlook import Wanted
from vitral_extract.remote import Remote
from vitral_extract.run import Done, extract
from vitral_extract.verify import verify


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("source") / "in", 60, bad=(3, 17, 59))


@pytest.fixture(scope="module")
def servers(small_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Running]]:
    with ExitStack() as stack:
        logs = tmp_path_factory.mktemp("logs")
        yield [stack.enter_context(running(small_repo, log=logs / f"{n}.log")) for n in range(2)]


def through(address: str, out: Path, wanted: Wanted, *, model: str | None = None) -> Done:
    embedder = Remote(address, model=model, timeout=30.0)
    try:
        return extract(out, wanted, embedder, Silent())
    finally:
        embedder.close()


def embedded(server: Running) -> int:
    return sum(line.get("images", 0) for line in server.lines("embed"))


@pytest.mark.parametrize(
    ("views", "dtype"), [(("patches",), "float16"), (("patches", "mean"), "float16"), (("mean",), "float32")]
)
def test_servers_and_engine_give_the_same_data_set(
    servers: list[Running], small_repo: Path, source: Path, tmp_path: Path, views: tuple[str, ...], dtype: str
) -> None:
    wanted = Wanted((str(source),), views=views, dtype=dtype, batch=4, shard_rows=8)
    here = run(tmp_path / "here", small_repo / "tiny", wanted).manifest
    addresses = ",".join(server.address for server in servers)
    before = [embedded(server) for server in servers]
    there = through(addresses, tmp_path / "there", wanted).manifest

    same = (
        "fingerprint",
        "preprocessing",
        "outputs",
        "source",
        "count",
        "rows",
        "errors",
        "provider",
        "grid",
    )
    assert [there[key] for key in same] == [here[key] for key in same]
    one, other = (vitral_extract.open(tmp_path / name) for name in ("here", "there"))
    assert one.ids == other.ids
    assert one.errors == other.errors
    for (_, mine), (_, its) in zip(one, other, strict=True):
        for name in one.names:
            np.testing.assert_allclose(its[name], mine[name], rtol=2**-10, atol=1e-6)
    assert verify(tmp_path / "there", None, sample=0) == []
    shares = [embedded(server) - count for server, count in zip(servers, before, strict=True)]
    assert sum(shares) >= 60
    assert min(shares) >= 60 // 4


def test_what_was_begun_here_goes_on_there(
    servers: list[Running], small_repo: Path, source: Path, tmp_path: Path
) -> None:
    wanted = Wanted((str(source),), batch=4, shard_rows=8)
    run(tmp_path / "here", small_repo / "tiny", wanted)
    out = Path(shutil.copytree(tmp_path / "here", tmp_path / "out"))
    (out / "manifest.json").unlink()
    for number in (0, 2, 5):
        (out / "commits" / f"{number:06}.json").unlink()

    done = through(servers[0].address, out, wanted)

    assert done.work is not None
    assert done.work.tally.shards == 3
    assert hashes(out) == hashes(tmp_path / "here")


def test_a_server_that_comes_back_is_waited_for(small_repo: Path, source: Path, tmp_path: Path) -> None:
    wanted = Wanted((str(source),), batch=1, shard_rows=8)
    found: list[Done] = []
    with running(small_repo, log=tmp_path / "1.log") as server:
        port = server.address.rpartition(":")[2]
        embedder = Remote(server.address, model="tiny", timeout=30.0, workers=1)
    thread = threading.Thread(
        target=lambda: found.append(extract(tmp_path / "out", wanted, embedder, Silent()))
    )
    thread.start()
    time.sleep(3)  # nobody is there
    assert thread.is_alive()
    with running(small_repo, "--port", port, log=tmp_path / "2.log"):
        thread.join(60)
    embedder.close()

    assert [done.manifest["rows"] for done in found] == [57]


def test_a_run_that_is_stopped_does_not_wait_for_a_server(
    small_repo: Path, source: Path, tmp_path: Path
) -> None:
    with running(small_repo, log=tmp_path / "1.log") as server:
        embedder = Remote(server.address, model="tiny", timeout=30.0)
    begun = time.monotonic()

    class Impatient(Silent):
        def seen(self, work: object, outlook: object) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(tmp_path / "out", Wanted((str(source),)), embedder, Impatient())
    assert time.monotonic() - begun < 15
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_server_that_has_another_model_is_refused(
    servers: list[Running], source: Path, tmp_path: Path
) -> None:
    torch.manual_seed(7)
    export(PatchEmbedding(img_size=32, patch_size=8, embed_dim=16), name="tiny", repo=tmp_path / "models")
    with running(tmp_path / "models", log=tmp_path / "log") as other:
        both = f"{servers[0].address},{other.address}"
        with pytest.raises(FingerprintMismatchError):
            through(both, tmp_path / "out", Wanted((str(source),), batch=1))
    assert not (tmp_path / "out" / "manifest.json").exists()
    with pytest.raises(UnavailableError):
        Remote(other.address, model=None, timeout=5.0)


def test_float16_overflow_is_told_as_in_process(source: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = PatchEmbedding(img_size=32, patch_size=8, embed_dim=16)
    with torch.no_grad():
        module.projection.weight.mul_(1e6)
    export(module, name="large", repo=tmp_path / "models")
    faint = tmp_path / "in"
    shutil.copytree(source, faint)
    Image.new("RGB", (32, 32), (128, 128, 128)).save(faint / "grey.png")
    mixed = Wanted((str(faint),), batch=4, shard_rows=8)
    with running(tmp_path / "models", log=tmp_path / "log") as server:
        through(server.address, tmp_path / "there", mixed)
    run(tmp_path / "here", tmp_path / "models" / "large", mixed)

    here, there = (vitral_extract.open(tmp_path / name) for name in ("here", "there"))
    assert here.errors == there.errors
    assert "grey.png" in here
    assert {error["reason"] for error in here.errors} >= {"overflow"}
    assert json.loads((tmp_path / "there" / "manifest.json").read_bytes())["rows"] == len(here)


def test_the_command_with_servers(servers: list[Running], source: Path, tmp_path: Path) -> None:
    path, out = entry(tmp_path / "entry"), tmp_path / "out"
    there = ("--server", ",".join(server.address for server in servers))
    for arguments in ((source, "--out", out, *there, "--quiet"), ("verify", out, *there, "--sample", "9")):
        process = start(path, *arguments, stdout=subprocess.PIPE)
        code, said, error = finished(process)
        assert code == 0, error
    assert said == f"{out}: 57 rows whole; 9 embedded again\n"

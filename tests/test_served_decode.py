"""Fast decoding from end to end: servers and data sets say it, and nothing mixes it with exact decoding."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import photographs
import pytest
from extracting import Silent, wanted
from serving import Running, running

import vitral_engine
from vitral.errors import InvalidArgumentError
from vitral.v1 import embedding_service_pb2 as pb
from vitral_client import Client
from vitral_client.cli import main
from vitral_extract import settings
from vitral_extract.embedder import InProcess
from vitral_extract.remote import Remote
from vitral_extract.run import Done, extract
from vitral_extract.verify import verify


@pytest.fixture(scope="module")
def servers(small_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Running]]:
    """One that decodes exactly, and one that decodes fast."""
    logs = tmp_path_factory.mktemp("logs")
    fast = {"VITRAL_DECODE": "fast"}
    with ExitStack() as stack:
        yield {
            "exact": stack.enter_context(running(small_repo, log=logs / "exact")),
            "fast": stack.enter_context(running(small_repo, log=logs / "fast", environ=fast)),
        }


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    for path in photographs.JPEGS:
        shutil.copyfile(path, folder / path.name)
    return folder


def test_servers_and_replies_say_how_they_decode(servers: dict[str, Running], small_repo: Path) -> None:
    data = photographs.RETINA.read_bytes()
    found = {}
    for mode, number in (("exact", pb.DECODE_EXACT), ("fast", pb.DECODE_FAST)):
        assert servers[mode].told["decode"] == mode
        with Client(servers[mode].address) as client:
            served, found[mode] = client.model(), client.embed(data)
        assert served.decode == number
        assert served.replay.pixels_equal
        assert found[mode].decode == mode
        with closing(vitral_engine.open(small_repo / "tiny", device="cpu", decode=mode)) as model:
            [here] = model.embed([data])
        assert here.decode == mode
        np.testing.assert_array_equal(here.patches, found[mode].patches)
    exact, fast = (found[mode].patches for mode in ("exact", "fast"))
    assert 0 < np.linalg.norm(fast - exact) / np.linalg.norm(exact) < 0.05


def test_the_command_says_how_a_server_decodes(servers: dict[str, Running], capsys) -> None:
    address = servers["fast"].address
    assert main(["models", "--server", address, "--json"]) == 0
    [told] = json.loads(capsys.readouterr().out)
    assert told["decode"] == "fast"
    assert main(["models", "--server", address]) == 0
    assert " fast " in capsys.readouterr().out
    assert main(["doctor", "--decode", "draft"]) == 1
    assert "unknown decode 'draft'; known are exact, fast" in capsys.readouterr().err


def here(out: Path, repo: Path, source: Path, decode: str) -> Done:
    with closing(InProcess(repo / "tiny", device="cpu", workers=1, decode=decode)) as embedder:
        return extract(out, wanted(source), embedder, Silent())


def there(out: Path, address: str, source: Path, decode: str | None = None) -> Done:
    with closing(Remote(address, model=None, timeout=30.0, decode=decode)) as embedder:
        return extract(out, wanted(source), embedder, Silent())


def test_a_data_set_says_it_and_goes_on_only_so(
    servers: dict[str, Running], small_repo: Path, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert here(out, small_repo, source, "fast").manifest["decode"] == "fast"
    with pytest.raises(InvalidArgumentError, match="whose decode is fast, this one's is exact"):
        here(out, small_repo, source, "exact")
    with pytest.raises(InvalidArgumentError, match="whose decode is fast, this one's is exact"):
        there(out, servers["exact"].address, source)
    assert there(out, servers["fast"].address, source).work is None
    for decode, problems in (("fast", 0), ("exact", 1)):
        with closing(InProcess(small_repo / "tiny", device="cpu", workers=1, decode=decode)) as embedder:
            assert len(verify(out, embedder, sample=3)) == problems


def test_a_run_from_before_the_choice_is_exact(small_repo: Path, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    here(out, small_repo, source, "exact")
    told = json.loads((out / settings.FILE).read_bytes())
    assert told.pop("decode") == "exact"
    (out / settings.FILE).write_text(json.dumps(told))
    assert here(out, small_repo, source, "exact").work is None
    with pytest.raises(InvalidArgumentError, match="whose decode is exact, this one's is fast"):
        here(out, small_repo, source, "fast")


def test_servers_that_decode_otherwise_are_refused_by_name(
    servers: dict[str, Running], source: Path, tmp_path: Path
) -> None:
    exact, fast = servers["exact"].address, servers["fast"].address
    with pytest.raises(InvalidArgumentError, match=f"{fast} decodes fast: start each with --decode exact"):
        there(tmp_path / "out", fast, source, decode="exact")
    with pytest.raises(InvalidArgumentError, match=f"{exact} decodes exact, {fast} decodes fast"):
        there(tmp_path / "out", f"{exact},{fast}", source)
    assert not (tmp_path / "out").exists()


def test_a_server_that_comes_back_otherwise_ends_the_run(
    small_repo: Path, source: Path, tmp_path: Path
) -> None:
    with running(small_repo, log=tmp_path / "1.log") as server:
        port = server.address.rpartition(":")[2]
        embedder = Remote(server.address, model=None, timeout=30.0)
    with (
        closing(embedder),
        running(small_repo, "--port", port, "--decode", "fast", log=tmp_path / "2.log"),
        pytest.raises(InvalidArgumentError, match="a server decodes fast by now, this run is exact"),
    ):
        extract(tmp_path / "out", wanted(source), embedder, Silent())
    assert not (tmp_path / "out" / "manifest.json").exists()

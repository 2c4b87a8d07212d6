"""The server with batches staged as on a GPU, and what it says to flags that cannot be."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from serving import command, running

import vitral_engine
from vitral.errors import InvalidArgumentError
from vitral_client import Client
from vitral_engine import device
from vitral_server import registry
from vitral_server.config import ServerConfig, parse
from vitral_server.registry import Registry


def test_replies_over_buckets_and_two_instances_are_the_plain_ones(small_repo: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    plain = vitral_engine.open(small_repo / "tiny", device="cpu")
    want = [found.patches for found in plain.embed(list(pixels))]
    flags = ("--batch-buckets", "on", "--instances", "2", "--max-batch-size", "6")
    with running(small_repo, *flags, log=tmp_path / "log") as server, Client(server.address) as client:
        with ThreadPoolExecutor(16) as pool:
            picks = list(np.random.default_rng(4).integers(0, 64, 600))
            got = list(pool.map(lambda one: client.embed(pixels[one]).patches, picks))
        assert server.stop() == 0
    assert all(np.array_equal(found, want[one]) for found, one in zip(got, picks, strict=True))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--device", "cpu", "--cuda-graphs", "on", "--model", "tiny"), "CUDA graphs need device cuda"),
        (("--device", "tensorrt"), "device tensorrt does not work here: "),
        (("--device", "cuda:0"), "device cuda:0 does not work here: "),
    ],
)
def test_a_server_that_cannot_do_as_told_says_so_in_one_line(
    small_repo: Path, flags: tuple[str, ...], message: str
) -> None:
    if flags[1] != "cpu" and device.fault(flags[1].split(":")[0], 0) is None:
        pytest.skip(f"{flags[1]} works here")
    line = command("--repo", str(small_repo), "--port", "0", *flags)
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("vitral-server: ")
    assert message in last


def _loaded(repo: Path, **options: object) -> Registry:
    config = ServerConfig(repo=repo, device="cpu", **options)  # type: ignore[arg-type]
    return registry.load(config, device.place("cpu"))


def test_instances_and_buckets_reach_the_engine(small_repo: Path) -> None:
    found = _loaded(small_repo, batch_buckets="on", instances=3, max_batch_size=6)
    engine = found.models[0].engine
    assert engine is not None
    for session in engine.sessions.values():
        assert session.buckets == (1, 2, 4, 6)
        assert session.stage is not None
        assert len(session.stage.lanes) == 3
        assert len({id(lane._session) for lane in session.stage.lanes}) == 1  # a CPU shares one
    found.close()


def test_on_a_cpu_batches_are_not_padded_by_themselves(small_repo: Path) -> None:
    found = _loaded(small_repo, instances=2)
    engine = found.models[0].engine
    assert engine is not None
    assert [session.stage for session in engine.sessions.values()] == [None, None]
    found.close()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--instances", "65"], "instances is 65; it must be from 0 to 64"),
        (["--instances", "-1"], "instances is -1"),
    ],
)
def test_values_out_of_range_are_refused(argv: list[str], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        parse(argv, {})


def test_flags_and_variables_are_read() -> None:
    config = parse(["--cuda-graphs", "on"], {"VITRAL_BATCH_BUCKETS": "off", "VITRAL_TENSORRT_CACHE": "/e"})
    assert (config.cuda_graphs, config.batch_buckets, config.tensorrt_cache) == ("on", "off", "/e")
    with pytest.raises(InvalidArgumentError, match="cuda_graphs is 'yes'; known are on, off"):
        parse([], {"VITRAL_CUDA_GRAPHS": "yes"})

"""With any one fast path off, the server gives the same answers."""

from __future__ import annotations

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import photographs
import pytest
import slow_paths
from PIL import Image
from serving import running

from vitral_client import AsyncClient, Client, Prepared

PICTURE = Image.open(photographs.COFFEE).convert("RGB")
NATIVE = np.asarray(PICTURE.resize((224, 224)))


def _jpeg(size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    PICTURE.resize(size).save(file, "JPEG")
    return file.getvalue()


FILES = [_jpeg((320, 240)), _jpeg((100, 200))]


def _asked(address: str) -> list[np.ndarray]:
    """Every door, both element types, alone and among others; each through both clients."""
    images = [FILES[0], NATIVE, NATIVE[:100], Prepared(np.full((3, 224, 224), 0.5, np.float32))]
    asked = [([image], dtype) for image in images for dtype in ("float32", "float16")] + [(images, "float16")]
    with Client(address) as client, ThreadPoolExecutor(6) as callers:
        found = [result.patches for some, dtype in asked for result in client.embed(some, dtype=dtype)]
        for results in callers.map(lambda _: client.embed([FILES[1], NATIVE]), range(12)):
            found += [result.patches for result in results]

    async def awaited() -> list[np.ndarray]:
        async with AsyncClient(address) as opened:
            return [result.patches for result in await opened.embed(images)]

    return found + asyncio.run(awaited())


@pytest.fixture(scope="module")
def fast(base_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    with running(base_repo, log=tmp_path_factory.mktemp("log") / "log") as server:
        return _asked(server.address)


@pytest.mark.parametrize("name", slow_paths.PATHS)
def test_answers_are_the_same_without_it(
    base_repo: Path, fast: list[np.ndarray], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(slow_paths.VARIABLE, name)
    with running(base_repo, log=tmp_path / "log") as server:
        slow = _asked(server.address)
    assert len(slow) == len(fast)
    for one, other in zip(slow, fast, strict=True):
        assert one.dtype == other.dtype
        within = 1e-6 if one.dtype == np.float32 else 1e-3
        gap = np.linalg.norm(one.astype(float) - other.astype(float)) / np.linalg.norm(other.astype(float))
        assert gap < within

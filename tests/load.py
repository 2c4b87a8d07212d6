"""Callers of every kind, many at once: most want right answers, some leave early, some send garbage."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import photographs
from PIL import Image

import vitral_engine
from vitral.errors import ImageError, UnavailableError, VitralError
from vitral_client import AsyncClient, Embedding, Prepared
from vitral_client.channel import Road, options, target

CALLERS = 64
LEAVING_SENDS = 7
"""Images of each request of those who leave early: the server's log tells them by it."""

Truth = Mapping[tuple[str, int], np.ndarray]
"""Patch tokens (N, D) by model and index of the picture."""


def pictures() -> list[bytes]:
    """Files of many sizes, from one pixel to the biggest photograph at hand."""
    found = [path.read_bytes() for path in photographs.ALL]
    coffee = Image.open(photographs.COFFEE)
    for size, kind in (((1, 1), "PNG"), ((31, 200), "JPEG"), ((64, 48), "WEBP"), ((160, 120), "JPEG")):
        file = io.BytesIO()
        coffee.resize(size).save(file, kind)
        found.append(file.getvalue())
    return found


def truth(repo: Path, models: tuple[str, ...], files: list[bytes]) -> Truth:
    """What each model gives for each picture, in process and one at a time."""
    found = {}
    for name in models:
        model = vitral_engine.open(repo / name, device="cpu")
        for index, data in enumerate(files):
            found[name, index] = model.embed([data])[0].patches
        model.close()
    return found


def _garbage(file: bytes, dice: random.Random) -> bytes | Prepared:
    return dice.choice(
        [
            b"",
            dice.randbytes(20_000),
            file[: len(file) // 2],
            b"\x89PNG\r\n\x1a\n" + dice.randbytes(100),
            Prepared(np.zeros((3, 5, 7), np.float32)),
        ]
    )


@dataclass
class Load:
    """Sixty-four callers of one address, and what became of their calls.

    Attributes:
        right: requests of good pictures alone that were answered, each as expected.
        mixed: requests of good and bad pictures that were answered, each as expected.
        left: requests whose caller left.
        refused: malformed messages that were refused.
        turned_away: calls that a server which is leaving did not accept.
        wrong: everything that must not be.
    """

    address: str
    files: list[bytes]
    truth: Truth
    right: int = 0
    mixed: int = 0
    left: int = 0
    refused: int = 0
    turned_away: int = 0
    wrong: list[str] = field(default_factory=list)
    stopping: bool = False
    server_leaves: bool = False

    async def run(self) -> None:
        """Calls until it is stopped, or until its server turned every caller away."""
        models = sorted({name for name, _ in self.truth})
        async with asyncio.TaskGroup() as callers:
            for number in range(CALLERS):
                kind = {0: self._leave, 1: self._spoil}.get(number % 10, self._ask)
                callers.create_task(self._call(kind, models, random.Random(number)))  # noqa: S311

    async def _call(self, kind, models: list[str], dice: random.Random) -> None:
        async with AsyncClient(self.address, timeout=60) as client:
            while not self.stopping:
                try:
                    await kind(client, dice.choice(models), dice)
                except UnavailableError as error:
                    if not self.server_leaves:
                        self.wrong.append(f"{kind.__name__}: {error}")
                    self.turned_away += 1
                    return
                except VitralError as error:
                    self.wrong.append(f"{kind.__name__}: {type(error).__name__}: {error}")

    async def _ask(self, client: AsyncClient, model: str, dice: random.Random) -> None:
        chosen = dice.choices(range(len(self.files)), k=dice.randint(1, 4))
        results = await client.embed([self.files[index] for index in chosen], model=model)
        for index, result in zip(chosen, results, strict=True):
            self._check(model, index, result)
        self.right += 1

    async def _leave(self, client: AsyncClient, model: str, dice: random.Random) -> None:
        call = asyncio.create_task(client.embed([self.files[0]] * LEAVING_SENDS, model=model))
        await asyncio.sleep(dice.uniform(0, 0.06))
        if not self.server_leaves:  # or it would leave before its retries are used up, again and again
            call.cancel()
        await asyncio.wait([call])
        if not call.cancelled():
            call.result()
        self.left += 1

    async def _spoil(self, client: AsyncClient, model: str, dice: random.Random) -> None:
        index = dice.randrange(len(self.files))
        images = [_garbage(self.files[0], dice), self.files[index], _garbage(self.files[0], dice)]
        first, good, last = await client.embed(images, model=model, errors="return")
        if not (isinstance(first, ImageError) and isinstance(last, ImageError)):
            self.wrong.append("garbage was embedded")
        self._check(model, index, good)
        self.mixed += 1
        await self._malformed(dice)

    async def _malformed(self, dice: random.Random) -> None:
        road = options(self.address, Road.CHECKED)
        async with grpc.aio.insecure_channel(target(self.address), options=road) as channel:
            method = channel.unary_unary("/vitral.v1.EmbeddingService/Embed")
            try:
                await method(b"\xff" + dice.randbytes(5_000), timeout=60)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                    self.refused += 1
                elif error.code() is not grpc.StatusCode.UNAVAILABLE or not self.server_leaves:
                    self.wrong.append(f"malformed: {error.code().name}: {error.details()}")
            else:
                self.wrong.append("a malformed message was answered")

    def _check(self, model: str, index: int, result: Embedding | ImageError) -> None:
        expected = self.truth[model, index]
        if isinstance(result, ImageError):
            self.wrong.append(f"picture {index}: {result}")
        elif result.model != model or result.patches.shape != expected.shape:
            self.wrong.append(f"picture {index} of {model} came as {result!r}")
        else:
            far = float(np.linalg.norm(result.patches - expected) / np.linalg.norm(expected))
            if not far < 1e-6:
                self.wrong.append(f"picture {index} of {model} is {far:.1e} from its own answer")

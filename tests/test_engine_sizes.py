"""What becomes of a preprocessing contract at other sizes than its own, and of runs of many sizes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic

import numpy as np
import pytest
from sized_module import NAME

import vitral_engine
from vitral import framing
from vitral.errors import ArtifactError, InvalidArgumentError, UnsupportedError
from vitral.selection import part
from vitral.v1 import embedding_service_pb2
from vitral.v1 import model_pb2 as pb
from vitral_engine import crop, lane
from vitral_engine.artifact import Artifact, open_artifact
from vitral_engine.device import place
from vitral_engine.engine import Model
from vitral_engine.preprocess import Preprocessor
from vitral_engine.session import GraphSession, SessionOptions
from vitral_engine.sized import Sizes
from vitral_engine.staging import Staging
from vitral_server.batcher import Batcher, BatchOptions, Ticket
from vitral_server.call import Door, EmbedCall, Picture, Wanted
from vitral_server.plan import fit
from vitral_server.registry import Served
from vitral_server.reply import Assembly

SIZES = [(32, 32), (16, 48), (48, 16), (64, 64), (8, 64), (56, 24)]


def contract(name: str = "hf-pil", *, edge: int = 0, crop_size: int = 0, size: int = 0) -> pb.Preprocessing:
    told = pb.Preprocessing(contract=name, resample=pb.RESAMPLE_BICUBIC, rescale_factor=1 / 255)
    told.mean.extend([0.5] * 3)
    told.std.extend([0.5] * 3)
    told.shortest_edge = edge
    if crop_size:
        told.crop_size.height = told.crop_size.width = crop_size
    if size:
        told.size.height = told.size.width = size
    return told


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["hf-pil", "hf-torchvision"])
@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (50, 50), (200, 31)])
def test_at_a_square_size_it_is_the_contract_enlarged(name: str, shape: tuple[int, int]) -> None:
    pixels = picture(*shape)
    for own, other in (
        (contract(name, edge=32, crop_size=28), contract(name, edge=64, crop_size=56)),
        (contract(name, size=32, crop_size=28), contract(name, size=64, crop_size=56)),
        (contract(name, size=28), contract(name, size=56)),
    ):
        assert np.array_equal(
            Preprocessor(own, size=(56, 56)).resize(pixels), Preprocessor(other).resize(pixels)
        )
        assert np.array_equal(
            Preprocessor(own, size=(28, 28)).resize(pixels), Preprocessor(own).resize(pixels)
        )


@pytest.mark.parametrize("size", [(16, 48), (48, 16), (8, 64), (32, 32)])
def test_a_shortest_edge_covers_the_enlarged_size_and_no_more(size: tuple[int, int]) -> None:
    told = contract(edge=32, crop_size=28)
    for height in range(5, 300, 13):
        for width in range(5, 300, 17):
            rows, columns = crop.resized(told, height=height, width=width, size=size)
            needed = [round(side * 32 / 28) for side in size]
            assert rows >= needed[0] - 1
            assert columns >= needed[1] - 1
            assert rows >= size[0]
            assert columns >= size[1]
            assert rows == needed[0] or columns == needed[1]
            assert abs(rows * width - columns * height) <= 2 * max(height, width)  # proportions kept
    made = Preprocessor(told, size=size).resize(np.full((33, 77, 3), 200, np.uint8))
    assert made.shape == (*size, 3)
    assert (made == 200).all()  # no black border


def test_pictures_of_the_size_stay_as_they_are() -> None:
    told = contract(size=28)
    assert Preprocessor(told, size=(16, 48)).keeps(16, 48)
    assert not Preprocessor(told, size=(16, 48)).keeps(28, 28)
    assert not Preprocessor(contract(edge=32, crop_size=28), size=(28, 28)).keeps(28, 28)


def test_a_picture_that_would_become_huge_is_refused() -> None:
    with pytest.raises(
        ValueError, match="3 x 60000, made to cover 64 x 64, becomes 73 x 1460000, over the limit"
    ):
        crop.resized(contract(edge=32, crop_size=28), height=3, width=60000, size=(64, 64))


@pytest.fixture(scope="module")
def model(sized_repo: Path) -> Model:
    return vitral_engine.open(sized_repo / NAME, device="cpu")


@pytest.fixture(scope="module")
def artifact(sized_repo: Path) -> Artifact:
    return open_artifact(sized_repo / NAME)


def opened(found: Artifact, staging: Staging | None = None) -> GraphSession:
    graph = found.spec.graphs[1]
    options = SessionOptions(threads=1, staging=staging or Staging())
    return GraphSession(found.folder / graph.file, graph, found.spec, placement=place("cpu"), options=options)


def rows(size: tuple[int, int], count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, *size)).astype(np.float32)


def test_the_native_size_needs_no_name(artifact: Artifact) -> None:
    sizes = Sizes(artifact.spec, max_pixels=10_000, decode="exact")
    assert sizes.at(None) is sizes.at((32, 32))
    assert sizes.at((16, 48)) is sizes.at((16, 48))
    assert sizes.at((16, 48)).intake.pixels(picture(9, 9), artifact.spec.graphs[0]).array.shape == (16, 48, 3)
    with pytest.raises(InvalidArgumentError, match="takes 8 x 8 to 64 x 64"):
        sizes.at((12, 32))
    fixed = Sizes(artifact.spec, max_pixels=10_000, decode="exact", native_on="tensorrt:0")
    assert fixed.at((32, 32)) is fixed.at(None)
    words = "on tensorrt:0 model sized runs at its native size only, 32 x 32"
    with pytest.raises(UnsupportedError, match=words):
        fixed.at((16, 48))


def test_memory_is_one_for_all_sizes(artifact: Artifact) -> None:
    session = opened(artifact)
    for size in (*SIZES, *reversed(SIZES)):
        with session.lease(4, size) as leased:
            assert leased.input.shape == (4, 3, *size)
            leased.fill(0, rows(size, 1)[0])
            session.run_bound(leased, 1)
            assert leased.outputs["tokens"].shape[1] == 1 + size[0] * size[1] // 64
    assert len(session._free) == 1
    arena = session._free[0].arena
    assert arena is not None
    assert arena._arrays["pixel_values"].size == 4 * 3 * 64 * 64
    with session.lease(4) as one, session.lease(4, (64, 64)) as other:
        assert one.input.shape == (4, 3, 32, 32)
        assert not np.shares_memory(one.input, other.input)


@pytest.mark.parametrize(
    ("size", "most"), [(None, 8), ((32, 32), 8), ((16, 48), 8), ((64, 64), 2), ((64, 40), 3)]
)
def test_a_run_has_no_more_pixels_than_one_of_the_native_size(
    artifact: Artifact, size: tuple[int, int] | None, most: int
) -> None:
    assert opened(artifact).most_rows(8, size) == most
    assert opened(artifact).most_rows(1, size) == 1


@pytest.mark.parametrize(
    "staging", [Staging(), Staging("on", instances=3, max_batch=8)], ids=["plain", "staged"]
)
def test_runs_of_many_sizes_at_once_keep_apart(artifact: Artifact, staging: Staging) -> None:
    plain, session = opened(artifact), opened(artifact, staging)
    session.warm(8)
    inputs = {size: rows(size, 40, seed) for seed, size in enumerate(SIZES)}
    truth = {size: plain.run(batch)["tokens"] for size, batch in inputs.items()}

    def caller(seed: int) -> float:
        random, worst = np.random.default_rng(seed), 0.0
        for _ in range(150):
            size = SIZES[random.integers(len(SIZES))]
            pick = random.integers(0, 40, random.integers(1, 9))
            with session.lease(8, size) as buffers:
                for at, number in enumerate(pick):
                    buffers.fill(at, inputs[size][number])
                session.run_bound(buffers, len(pick))
                gap = buffers.outputs["tokens"][: len(pick)] - truth[size][pick]
                worst = max(worst, float(np.abs(gap).max()))
        return worst

    with ThreadPoolExecutor(6) as pool:
        assert max(pool.map(caller, range(6))) < 1e-5
    assert len(session._free) <= 6


def test_a_lane_keeps_few_bindings_and_those_of_the_native_size(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "_MOST_BOUND", 3)
    session = opened(artifact, Staging("on", max_batch=4))
    session.warm(4)
    assert session.stage is not None
    [one] = session.stage.lanes
    before, address = set(one._bound), one.address(2)
    assert before == {(1, 3, 32, 32), (2, 3, 32, 32), (4, 3, 32, 32)}
    for height in range(8, 72, 8):
        for width in range(8, 72, 8):
            session.run(rows((height, width), 2))
            assert before <= set(one._bound)
            assert len(one._bound) <= 3 + 3 + 1
    assert one.address(2) == address
    # Enough for the largest of them, and nothing besides.
    assert one._blocks["pixel_values"].size == 2 * 3 * 64 * 64 * 4


def test_a_dynamic_extent_without_a_range_is_refused(artifact: Artifact) -> None:
    spec = pb.ModelSpec()
    spec.CopyFrom(artifact.spec)
    spec.architecture.ClearField("max_size")
    file = artifact.folder / spec.graphs[1].file
    words = r"pixel_values of model\.onnx has an extent that no image size tells"
    with pytest.raises(ArtifactError, match=words):
        GraphSession(file, spec.graphs[1], spec, placement=place("cpu"))


@pytest.mark.parametrize(
    ("size", "door", "held"),
    [
        (None, Door.PIXELS, 17 * 16 * 4 + 32 * 32 * 3),
        ((64, 64), Door.PIXELS, 65 * 16 * 4 + 64 * 64 * 3),
        ((64, 64), Door.PREPARED, 65 * 16 * 4),
    ],
)
def test_rows_of_a_size_count_among_the_bytes_that_are_held(
    model: Model, size: tuple[int, int] | None, door: Door, held: int
) -> None:
    picture = Picture(door, rows(size or (32, 32), 1)[0])
    call = EmbedCall("", "", (picture,), (Wanted("tokens"),), size, 1 << 20, "", 100)
    assert fit(call, Served(NAME, "1", model), model).bytes == held


class Held(GraphSession):
    """Runs only while the gate is open, and notes what it ran."""

    def prepare(self) -> Held:
        self.gate, self.began, self.ran = threading.Event(), threading.Event(), list[tuple[int, ...]]()
        return self

    def run_bound(self, buffers: object, count: int, *, alone: bool = True) -> None:
        self.began.set()
        assert self.gate.wait(10)
        self.ran.append((count, *buffers.input.shape[2:]))  # type: ignore[attr-defined]
        super().run_bound(buffers, count, alone=alone)  # type: ignore[arg-type]


@pytest.fixture
def held(artifact: Artifact) -> Iterator[tuple[Held, Batcher]]:
    graph = artifact.spec.graphs[1]
    session = Held(artifact.folder / graph.file, graph, artifact.spec, placement=place("cpu")).prepare()
    batcher = Batcher(session, BatchOptions(max_batch=4), name="sizes")
    yield session, batcher
    session.gate.set()
    batcher.close()


async def test_a_run_has_one_size_and_the_oldest_row_says_which(
    artifact: Artifact, held: tuple[Held, Batcher]
) -> None:
    session, batcher = held
    sizes = Sizes(artifact.spec, max_pixels=10_000, decode="exact")
    order = [(32, 32), *[(16, 48), (32, 32)] * 5, (48, 16), *[(16, 48)] * 4]
    waiting = []
    for number, size in enumerate(order):
        spec = sizes.at(size).spec
        assembly = Assembly(spec, "1", [part(spec, "tokens")], images=1, deadline=monotonic() + 20)
        ticket = Ticket(assembly, 0, rows(size, 1, number)[0], monotonic(), size=size)
        batcher.submit([ticket])
        assert session.began.wait(10)  # the first one runs alone, the others queue behind it
        waiting.append((assembly, ticket))
    assert batcher.waiting == len(order) - 1
    session.gate.set()
    frames = [await assembly.future for assembly, _ in waiting]
    # Each run is of the oldest row that is left; the one (48, 16) waits for those before it only.
    assert session.ran == [
        (1, 32, 32),
        (4, 16, 48),
        (4, 32, 32),
        (4, 16, 48),
        (1, 32, 32),
        (1, 48, 16),
        (1, 16, 48),
    ]
    assert batcher.waiting == 0
    for frame, (_, ticket) in zip(frames, waiting, strict=True):
        header, [payload] = framing.split(frame.message)
        [result] = embedding_service_pb2.EmbedResponse.FromString(header).results
        assert (result.grid.height * 8, result.grid.width * 8) == ticket.size
        got = np.frombuffer(payload, np.float32).reshape(-1, 16)
        want = GraphSession.run(session, ticket.row[None])["tokens"][0]
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)

"""The spec of a model of dynamic size at one of its sizes."""

from __future__ import annotations

import pytest

from vitral import dynamic, selection, sizes
from vitral import spec as specs
from vitral.errors import InvalidArgumentError
from vitral.selection import Rect, Selection
from vitral.v1 import model_pb2 as pb
from vitral.v1 import tensor_pb2


def axes(**extents: int) -> list[pb.Axis]:
    return [pb.Axis(name=name, size=size) for name, size in extents.items()]


def made(*, free: bool = True) -> pb.ModelSpec:
    """Patches of 14 x 7, natively 28 x 28, up to 140 x 70."""
    spec = pb.ModelSpec(name="m", default_outputs=["tokens"])
    own = spec.architecture
    own.image_size.height, own.image_size.width = 28, 28
    own.patch_size.height, own.patch_size.width = 14, 7
    own.grid.height, own.grid.width = 2, 4
    if free:
        own.min_size.height, own.min_size.width = 14, 7
        own.max_size.height, own.max_size.width = 140, 70
    side, tokens, rows, columns = (0, 0, 0, 0) if free else (28, 9, 2, 4)
    float32 = tensor_pb2.DATA_TYPE_FLOAT32
    taken = pb.GraphInput(name="x", dtype=float32, axes=axes(batch=0, channel=3, height=side, width=side))
    pixels = pb.GraphInput(
        name="u", dtype=tensor_pb2.DATA_TYPE_UINT8, axes=axes(batch=0, height=side, width=side, channel=3)
    )
    pixels.folded = True
    names = ["tokens", "pooled", "map"]
    spec.graphs.add(file="u8", input=pixels, outputs=names)
    spec.graphs.add(file="f32", input=taken, outputs=names)
    cls = [pb.PREFIX_TOKEN_CLS]
    spec.outputs.add(
        name="tokens",
        dtype=float32,
        axes=axes(batch=0, token=tokens, feature=5),
        prefix_tokens=cls,
        image_dependent_prefix=True,
        trained=True,
    )
    spec.outputs.add(name="pooled", dtype=float32, axes=axes(batch=0, feature=5), trained=True)
    spec.outputs.add(name="map", dtype=float32, axes=axes(batch=0, axis_1=5, axis_2=rows, feature=columns))
    specs.check(spec)
    return spec


@pytest.mark.parametrize("size", [None, (28, 28), (14, 7), (140, 70), (70, 14), (14, 70)])
def test_at_a_size_it_is_as_any_static_model(size: tuple[int, int] | None) -> None:
    before = made()
    spec = dynamic.at(before, size)
    height, width = size or (28, 28)
    rows, columns = height // 14, width // 7
    assert not dynamic.is_dynamic(spec)
    assert dynamic.native(spec) == (height, width)
    assert (spec.architecture.grid.height, spec.architecture.grid.width) == (rows, columns)
    assert [specs.item_shape(graph.input.axes) for graph in spec.graphs] == [
        (height, width, 3),
        (3, height, width),
    ]
    shapes = [specs.item_shape(item.axes) for item in spec.outputs]
    assert shapes == [(1 + rows * columns, 5), (5,), (5, rows, columns)]
    assert selection.part(spec, "tokens", Selection(view="patches")).shape == (rows * columns, 5)
    assert sizes.payload_bytes(spec, [("tokens", Selection())], 3) == 3 * 4 * 5 * (1 + rows * columns)
    assert before == made()
    assert spec.fingerprint == before.fingerprint


def test_a_rectangle_is_held_against_the_grid_of_the_size() -> None:
    spec = made()
    wide = Selection(rect=Rect(0, 9, 1, 1))
    assert selection.part(dynamic.at(spec, (14, 70)), "tokens", wide).shape == (1, 5)
    with pytest.raises(InvalidArgumentError, match="beyond the 5 x 2 patches of output tokens"):
        selection.part(dynamic.at(spec, (70, 14)), "tokens", wide)


@pytest.mark.parametrize("size", [(28, 27), (21, 28), (154, 28), (28, 77), (0, 7), (14, 0)])
def test_sizes_it_does_not_take_are_refused_with_those_it_does(size: tuple[int, int]) -> None:
    words = (
        rf"size {size[0]} x {size[1]} was asked for, but model m takes 14 x 7 to 140 x 70, "
        "each side a multiple of its patch's 14 x 7"
    )
    with pytest.raises(InvalidArgumentError, match=words):
        dynamic.at(made(), size)


def test_a_static_model_has_its_own_size_only() -> None:
    spec = made(free=False)
    assert dynamic.at(spec) is spec
    assert dynamic.at(spec, (28, 28)) is spec
    with pytest.raises(
        InvalidArgumentError, match="28 x 35 was asked for, but model m has the static size 28 x 28"
    ):
        dynamic.at(spec, (28, 35))


def test_a_row_says_its_size_by_its_shape() -> None:
    spec = made()
    assert dynamic.of_row(spec, (3, 28, 70)) == (28, 70)
    assert dynamic.of_row(spec, (3, 5, 6)) == (5, 6)  # whether it is taken is asked apart
    assert dynamic.of_row(spec, (28, 70, 3)) is None
    assert dynamic.of_row(spec, (1, 3, 28, 70)) is None


def test_listings_say_the_range() -> None:
    assert dynamic.described(made()) == "28 x 28, from 14 x 7 to 140 x 70 in steps of 14 x 7"
    assert dynamic.described(made(free=False)) == "28 x 28"
    assert dynamic.described(pb.ModelSpec(name="t")) == "none"

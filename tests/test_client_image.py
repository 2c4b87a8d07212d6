"""What is sent of each kind of image."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image as Pil
from PIL import ImageOps

from vitral.errors import ImageError, InvalidArgumentError
from vitral.tensors import view
from vitral.v1 import tensor_pb2
from vitral_client import Prepared
from vitral_client.image import Pixels, is_one, load
from vitral_client.request import fill


def _noise(height: int, width: int, mode: str = "RGB") -> Pil.Image:
    pixels = np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Pil.fromarray(pixels).convert(mode)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 4, 5, 3), np.uint8), r"2 x 4 x 5 x 3 is a batch: pass list\(array\)"),
        (np.zeros(4, np.uint8), "H x W x channels, not of shape 4"),
        (np.zeros((0, 5, 3), np.uint8), "not of shape 0 x 5 x 3"),
        (np.zeros((4, 5, 3), np.float64), "not float64 of shape 4 x 5 x 3; wrap .* in Prepared"),
        (np.zeros((4, 5, 3), np.int64), "not int64 of shape 4 x 5 x 3$"),
        (np.uint8(3), "not numpy.uint8"),
        (3, "not builtins.int"),
    ],
)
def test_arrays_that_are_no_image_are_refused_by_their_numbers(array: object, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        load(array)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3), (4, 5, 4), (4, 5, 13)])
@pytest.mark.parametrize(
    ("kind", "sent"), [("u1", "|u1"), ("<u2", "<u2"), (">u2", "<u2"), ("i2", "<f4"), ("f4", "<f4")]
)
def test_numbers_of_any_channels_are_left_to_the_server(kind: str, sent: str, shape: tuple[int, ...]) -> None:
    array = (np.arange(np.prod(shape)).reshape(shape) * 3).astype(kind)
    tensor = tensor_pb2.Tensor()
    content = load(array)
    assert isinstance(content, Pixels)
    written = fill(tensor, content)
    assert written.dtype == sent
    assert written.nbytes == content.array.nbytes
    back = view(written.tobytes(), tensor.dtype, tensor.shape)
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 4, 4)), "not float64"),
        ([[1.0]], "not list"),
        (np.zeros((1, 3, 4, 4), np.float32), "shape 1 x 3 x 4 x 4"),
        (np.zeros(4, np.float32), "shape 4:"),
        (np.full((3, 2, 2), np.nan, np.float32), "in 12 of 12 values"),
        (np.array([[1, np.inf], [np.nan, 2]], np.float32), "in 2 of 4 values"),
    ],
)
def test_prepared_rows_are_checked(array: np.ndarray, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        Prepared(array)


def test_files_and_bytes_go_as_they_are(tmp_path) -> None:
    path = tmp_path / "picture"
    path.write_bytes(b"content")
    assert load(path) == load(str(path)) == load(b"content") == load(bytearray(b"content")) == b"content"
    with pytest.raises(ImageError, match="Is a directory") as raised:
        load(tmp_path)
    assert raised.value.cause == "unreadable"
    with pytest.raises(ImageError, match="null"):
        load("a\0b")


def test_pil_rgb_goes_as_pixels() -> None:
    image = _noise(5, 7)
    content = load(image)
    assert isinstance(content, Pixels)
    np.testing.assert_array_equal(content.array, np.asarray(image))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I", "F", "I;16"])
def test_pil_of_other_modes_goes_losslessly_in_its_mode(mode: str) -> None:
    image = Pil.new("I;16", (7, 5), 40_000) if mode == "I;16" else _noise(5, 7, mode)
    content = load(image)
    assert isinstance(content, bytes)
    with Pil.open(io.BytesIO(content)) as back:
        assert back.mode == mode
        np.testing.assert_array_equal(np.asarray(back), np.asarray(image))
        assert back.convert("RGB").tobytes() == image.convert("RGB").tobytes()


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_transparent_colour_is_kept(mode: str) -> None:
    image = _noise(5, 7, mode)
    image.info["transparency"] = {"P": 3, "L": 3, "RGB": (1, 2, 3)}[mode]
    content = load(image)
    assert isinstance(content, bytes)
    with Pil.open(io.BytesIO(content)) as back:
        assert back.info["transparency"] == image.info["transparency"]
        assert back.convert("RGBA").tobytes() == image.convert("RGBA").tobytes()


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_pil_orientation_is_applied_once(mode: str, orientation: int) -> None:
    file = io.BytesIO()
    exif = Pil.Exif()
    exif[0x0112] = orientation
    _noise(5, 7, mode).save(file, "PNG", exif=exif)
    image = Pil.open(file)
    upright = np.asarray(ImageOps.exif_transpose(image))
    content = load(image)
    if isinstance(content, Pixels):
        np.testing.assert_array_equal(content.array, upright)
        return
    with Pil.open(io.BytesIO(content)) as back:
        assert back.getexif().get(0x0112, 1) == 1
        np.testing.assert_array_equal(np.asarray(back), upright)


def test_pil_pictures_that_cannot_be_sent_fail_as_images() -> None:
    file = io.BytesIO()
    _noise(64, 64).save(file, "JPEG")
    with pytest.raises(ImageError, match="mode RGB cannot be sent"):
        load(Pil.open(io.BytesIO(file.getvalue()[:900])))
    with pytest.raises(ImageError, match="mode HSV cannot be sent"):
        load(_noise(4, 4, "HSV"))


def test_one_image_is_told_from_several(tmp_path) -> None:
    assert all(map(is_one, ["a", b"a", tmp_path, np.zeros(3), _noise(2, 2), Prepared(np.ones((2, 2), "f4"))]))
    assert not any(map(is_one, [["a"], ("a",), iter(["a"]), [np.zeros(3)]]))


def test_the_client_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom vitral_client import *\n"
        "heavy = {'PIL', 'onnxruntime', 'torch', 'onnx', 'transformers', 'rich', 'safetensors',"
        " 'vitral_engine', 'vitral_server', 'vitral_export'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""The `vitral` command against a server with hand-made replies."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from client_wire import Wire, expected, serve
from safetensors import safe_open

from vitral.v1 import embedding_service_pb2 as pb
from vitral_client import cli


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    with serve(Wire()) as running:
        monkeypatch.setenv("VITRAL_SERVER", running.address)
        yield running


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    """Three files, two of one name, the last of which the server refuses."""
    paths = [tmp_path / "a" / "x.jpg", tmp_path / "b" / "x.jpg", tmp_path / "b" / "bad.jpg"]
    for path, content in zip(paths, [b"first", b"second", b"bad"], strict=True):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return [str(path) for path in paths]


def test_a_table_without_a_file(wire: Wire, pictures: list[str], capsys) -> None:
    assert cli.main(["embed", *pictures[:2]]) == 0
    printed = capsys.readouterr()
    assert "patch_embeddings" in printed.out
    assert "4 x 6" in printed.out
    assert "random weights, seed 0" in printed.err


def test_json_names_errors_and_figures_and_exits_1(wire: Wire, pictures: list[str], capsys) -> None:
    assert cli.main(["embed", *pictures, "--json"]) == 1
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document["model"] == "tiny"
    assert document["weights"] == "random weights, seed 0"
    assert [image["image"] for image in document["images"]] == ["x.jpg", "x.jpg-2", "bad.jpg"]
    assert document["images"][0]["outputs"]["patch_embeddings"]["shape"] == [4, 6]
    assert document["images"][2]["cause"] == "truncated"
    assert "vitral: bad.jpg: the file ends after 3 bytes" in printed.err


def test_npy_holds_all_stacked(wire: Wire, pictures: list[str], tmp_path: Path, capsys) -> None:
    target = tmp_path / "out.npy"
    assert cli.main(["embed", *pictures[:2], "-o", str(target)]) == 0
    array = np.load(target)
    np.testing.assert_array_equal(array, np.stack([expected(b"first"), expected(b"second")]))
    assert "2 of 2 images" in capsys.readouterr().out
    assert cli.main(["embed", *pictures[:2], "--outputs", "patch_embeddings,extra", "-o", str(target)]) == 1
    assert "one output, not 2" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "out.npy"]


def test_npy_is_not_written_when_an_image_failed(
    wire: Wire, pictures: list[str], tmp_path: Path, capsys
) -> None:
    assert cli.main(["embed", *pictures, "-o", str(tmp_path / "out.npy")]) == 1
    printed = capsys.readouterr()
    assert not printed.out
    assert "bad.jpg: the file ends" in printed.err
    assert "1 of 3 images failed, and rows of a .npy have no names; use .npz or .safetensors" in printed.err
    assert cli.main(["embed", *pictures, "-o", str(tmp_path / "out.npz")]) == 1
    assert "2 of 3 images" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "out.npz"]


def test_npz_and_safetensors_hold_every_image_and_output(
    wire: Wire, pictures: list[str], tmp_path: Path
) -> None:
    names = sorted(
        f"{image}/{output}" for image in ("x.jpg", "x.jpg-2") for output in ("extra", "patch_embeddings")
    )
    common = ["embed", *pictures[:2], "--outputs", "patch_embeddings, extra", "--dtype", "float16", "-o"]
    assert cli.main([*common, str(tmp_path / "out.npz")]) == 0
    with np.load(tmp_path / "out.npz") as file:
        assert sorted(file.files) == names
        np.testing.assert_array_equal(file["x.jpg-2/extra"], expected(b"second").astype(np.float16))
    assert cli.main([*common, str(tmp_path / "out.safetensors")]) == 0
    with safe_open(tmp_path / "out.safetensors", "np") as file:
        assert sorted(file.keys()) == names
        assert file.metadata() == {
            "model": "tiny",
            "version": "3",
            "fingerprint": "f" * 64,
            "weights": "random weights, seed 0",
        }


def test_standard_input_is_an_image(wire: Wire, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"from a pipe")))
    assert cli.main(["embed", "-", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"][0]["image"] == "stdin"
    assert wire.requests[-1].items[0].encoded == b"from a pipe"
    assert cli.main(["embed", "-", "-"]) == 2


def test_many_images_go_in_parts_of_one_fingerprint(wire: Wire, pictures: list[str]) -> None:
    assert cli.main(["embed", *[pictures[0]] * 40, "--json"]) == 0
    assert sorted(len(request.items) for request in wire.requests) == [8, 16, 16]
    assert {request.expect_fingerprint for request in wire.requests} == {"f" * 64}


def test_a_request_refused_for_its_size_is_halved(wire: Wire, pictures: list[str], capsys) -> None:
    def refuse(request: pb.EmbedRequest, context: grpc.ServicerContext) -> None:
        if len(request.items) > 4:
            context.set_trailing_metadata((("vitral-error", "too_large"), ("grpc-retry-pushback-ms", "-1")))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too much")

    wire.on_embed = refuse
    assert cli.main(["embed", *[pictures[0]] * 10, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["images"]) == 10
    assert [len(request.items) for request in wire.requests] == [10, 5, 2, 2, 2, 2, 2]


def test_models_lists_states_and_calls_random_weights_random(wire: Wire, capsys) -> None:
    failed = pb.ServedModel(
        name="broken", version="1", state=pb.MODEL_STATE_FAILED, reason="no [weights.bin]"
    )
    wire.models["broken"] = failed
    assert cli.main(["models"]) == 0
    printed = capsys.readouterr().out
    assert "random weights, seed 0" in printed
    assert "failed: no [weights.bin]" in printed
    assert cli.main(["models", "--json"]) == 0
    tiny, broken = json.loads(capsys.readouterr().out)
    assert (tiny["state"], tiny["spec"]["name"]) == ("ready", "tiny")
    assert (broken["state"], broken["reason"]) == ("failed", "no [weights.bin]")


def test_health_exits_0_only_when_serving(wire: Wire, capsys) -> None:
    wire.health["sick"] = 2
    assert cli.main(["health"]) == 0
    assert cli.main(["health", "sick"]) == 1
    assert capsys.readouterr().out.split() == ["SERVING", "NOT_SERVING"]
    assert cli.main(["health", "none"]) == 1
    assert "no model 'none'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["embed"],
        ["embed", "x.jpg", "--dtype", "int3"],
        ["embed", "x.jpg", "--timeout", "0"],
        ["embed", "x.jpg", "-o", "x.txt"],
        ["embed", "x.jpg", "--outputs", ","],
        ["nonsense"],
    ],
)
def test_usage_errors_exit_2(args: list[str], capsys) -> None:
    assert cli.main(args) == 2
    assert capsys.readouterr().err


def test_a_timeout_that_is_no_number_is_said_plainly(capsys) -> None:
    assert cli.main(["health", "--timeout", "abc"]) == 2
    assert "argument --timeout: invalid seconds value: 'abc'" in capsys.readouterr().err


def test_failures_are_one_line_and_exit_1(pictures: list[str], tmp_path: Path, capsys) -> None:
    assert cli.main(["health", "--server", "127.0.0.1:1"]) == 1
    assert cli.main(["models", "--server", "nonsense"]) == 1
    assert cli.main(["embed", pictures[0], "-o", str(tmp_path / "none" / "x.npy")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith("vitral: ") for line in lines] == [True] * 3
    assert "127.0.0.1:1" in lines[0]


def test_what_the_extra_brings_is_named_where_missing(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda _: None)
    assert cli.main(["models"]) == 1
    assert "needs rich: pip install 'vitral[cli]'" in capsys.readouterr().err


def test_an_interrupt_exits_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "Client", lambda *_, timeout: interrupt())
    assert cli.main(["health"]) == 130

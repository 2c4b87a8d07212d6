"""`vitral steps` as it is run, with its mistakes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from photographs import CHELSEA, ROCKET
from PIL import Image
from view_artifacts import copy, read, write

from vitral import spec as specs
from vitral_client import cli
from vitral_view.command import steps


@pytest.fixture(autouse=True)
def entry(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry point, also where an older vitral is installed."""
    folder = tmp_path_factory.mktemp("entry")
    info = folder / "vitral_steps-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vitral-steps\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vitral.commands]\nsteps = vitral_view.command:steps\n")
    monkeypatch.syspath_prepend(str(folder))


def failure(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line of a run that failed."""
    assert cli.main(["steps", *map(str, arguments)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("vitral: ")
    return line.removeprefix("vitral: ")


def test_a_page_and_what_is_said_about_it(small_repo: Path, tmp_path: Path, capsys) -> None:
    picture, target = tmp_path / "그림.jpg", tmp_path / "steps.PNG"
    shutil.copy(ROCKET, picture)
    run = [
        "steps",
        str(picture),
        "--model",
        str(small_repo / "tiny" / "1"),
        "--patch",
        "6",
        "-o",
        str(target),
    ]
    assert cli.main(run) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{target}: model tiny version 1, patch 6 followed\n"
    assert printed.err.splitlines() == [
        "vitral: model tiny has random weights, seed 0: it was never trained",
        "vitral: left out: CLS in front, for this model has no CLS token",
        "vitral: left out: position embeddings, for this model has none",
    ]
    with Image.open(target) as opened, Image.open(ROCKET) as photograph:
        shown = np.asarray(opened)[236 : 236 + 448 : 14, 64 : 64 + 448 : 14]
        expected = np.asarray(photograph.resize((32, 32), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(shown, expected)


def test_the_only_model_is_taken_and_several_are_named(
    small_repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "no model in models: name one with --model" in failure(capsys, CHELSEA, "-o", "a.png")
    copy(small_repo / "tiny" / "1", tmp_path / "models")
    assert cli.main(["steps", str(CHELSEA), "-o", "a.png"]) == 0
    assert (tmp_path / "a.png").is_file()
    capsys.readouterr()

    other = copy(small_repo / "tiny" / "1", tmp_path / "others")
    (tmp_path / "models" / "other").mkdir()
    other.rename(tmp_path / "models" / "other" / "1")
    told = failure(capsys, CHELSEA, "-o", "b.png")
    assert told == "models holds 2 models, name one with --model: models/other, models/tiny"
    assert not (tmp_path / "b.png").exists()


def test_mistakes_are_one_line_and_leave_nothing(small_repo: Path, tmp_path: Path, capsys) -> None:
    tiny = ("--model", small_repo / "tiny")
    target = tmp_path / "out" / "steps.png"
    assert f"cannot write {target}: its folder does not exist" == failure(
        capsys, CHELSEA, *tiny, "-o", target
    )
    target.parent.mkdir()
    assert "ends in none of .png, .gif" in failure(capsys, CHELSEA, *tiny, "-o", target.with_suffix(".jpg"))
    (target.parent / "folder.gif").mkdir()
    assert "it is a folder" in failure(capsys, CHELSEA, *tiny, "-o", target.parent / "folder.gif")
    assert "no.jpg: No such file" in failure(capsys, tmp_path / "no.jpg", *tiny, "-o", target)
    assert "no image of a known format" in failure(capsys, Path(__file__), *tiny, "-o", target)
    assert "no patch 16: model tiny has 0 to 15" in failure(
        capsys, CHELSEA, *tiny, "--patch", "16", "-o", target
    )
    assert "no model at" in failure(capsys, CHELSEA, "--model", tmp_path / "none", "-o", target)
    assert sorted(path.name for path in target.parent.iterdir()) == ["folder.gif"]


def test_a_file_that_cannot_be_written_is_one_line(small_repo: Path, tmp_path: Path, capsys) -> None:
    target = tmp_path / f"{'x' * 251}.png"  # as long as a name may be, so that there is no room beside it
    run = ["steps", str(CHELSEA), "--model", str(small_repo / "tiny"), "-o", str(target)]
    assert cli.main(run) == 1
    assert f"vitral: cannot write {target}: File name too long" in capsys.readouterr().err.splitlines()
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_takes_no_pictures_is_refused(small_repo: Path, tmp_path: Path, capsys) -> None:
    folder = copy(small_repo / "tiny" / "1", tmp_path / "models")
    spec = read(folder)
    spec.ClearField("preprocessing")
    write(folder, spec)
    told = failure(capsys, CHELSEA, "--model", folder, "-o", tmp_path / "a.png")
    assert told == "model tiny has no preprocessing: it takes no pictures, only prepared rows"


def test_a_model_that_was_changed_is_refused(small_repo: Path, tmp_path: Path, capsys) -> None:
    folder = copy(small_repo / "tiny" / "1", tmp_path / "models")
    file = folder / specs.EMBEDDING
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    told = failure(capsys, CHELSEA, "--model", folder, "-o", tmp_path / "a.png")
    assert "embedding.safetensors has sha256" in told
    assert "it was changed" in told


def test_a_model_without_tensors_is_refused(small_repo: Path, tmp_path: Path, capsys) -> None:
    folder = copy(small_repo / "tiny" / "1", tmp_path / "models")
    spec = read(folder)
    del spec.sha256[specs.EMBEDDING]
    write(folder, spec)
    told = failure(capsys, CHELSEA, "--model", folder, "-o", tmp_path / "a.png")
    assert told == "model tiny has no embedding.safetensors: there is nothing to draw from"


@pytest.mark.parametrize(
    "arguments", [[], ["x.jpg"], ["x.jpg", "-o"], ["x.jpg", "-o", "a.png", "--patch", "k"]]
)
def test_wrong_usage_exits_2(arguments: list[str], capsys) -> None:
    assert cli.main(["steps", *arguments]) == 2
    assert "vitral steps" in capsys.readouterr().err


def test_it_needs_what_its_extra_brings() -> None:
    assert steps.extra == "view"
    assert set(steps.packages) == {"matplotlib", "PIL", "safetensors"}

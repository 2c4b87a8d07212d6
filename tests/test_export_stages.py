"""The stage table, and the table of shapes in two languages."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vitral.errors import InvalidArgumentError
from vitral_export.cli import main
from vitral_export.loaded import Options
from vitral_export.modules import ViTEmbedding, visualize_patch_creation
from vitral_export.sources import load
from vitral_export.stages import stages


def test_the_stage_table_is_the_modules_own_program() -> None:
    rows = stages(ViTEmbedding(img_size=384))
    assert rows == stages(load("vit-embedding", Options(img_size=384)))
    assert [(row.stage, row.input, row.output) for row in rows] == [
        ("token for each image", "1 x 1 x 768", "B x 1 x 768"),
        ("convolution", "B x 3 x 384 x 384", "B x 768 x 24 x 24"),
        ("reshape", "B x 768 x 24 x 24", "B x 768 x 576"),
        ("permute", "B x 768 x 576", "B x 576 x 768"),
        ("token in front", "B x 1 x 768 and B x 576 x 768", "B x 577 x 768"),
        ("position embedding", "B x 577 x 768", "B x 577 x 768"),
    ]
    assert rows[3].what.endswith("-> patch_embeddings")
    assert rows[-1].what == "adds position_embedding -> embeddings"


def test_the_stage_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stages", "manual-patch-embedding", "--img-size", "32", "--patch-size", "8"]) == 0
    said = capsys.readouterr().out
    assert "B x 3 x 4 x 8 x 4 x 8" in said
    assert "multiplies with projection.weight, adds projection.bias -> patch_embeddings" in said


@pytest.mark.parametrize(("language", "said"), [("en", "what happens"), ("ko", "하는 일")])
def test_patch_creation_is_shown_in_two_languages(
    language: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    visualize_patch_creation(language=language)
    visualize_patch_creation(torch.zeros(2, 1, 64, 64), patch_size=8, embed_dim=4, language=language)
    printed = capsys.readouterr().out
    assert said in printed
    assert "1 x 3 x 14 x 16 x 14 x 16" in printed
    assert "2 x 8 x 8 x 1 x 8 x 8" in printed


def test_patch_creation_refuses_what_is_no_batch_of_square_images() -> None:
    with pytest.raises(InvalidArgumentError, match="images are 3 x 32 x 32; batch x channels x size x size"):
        visualize_patch_creation(torch.zeros(3, 32, 32))
    with pytest.raises(InvalidArgumentError, match="language is en or ko, not 'fr'"):
        visualize_patch_creation(language="fr")  # type: ignore[arg-type]

"""What a checkpoint says of the pictures that it was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vitral.errors import InvalidArgumentError
from vitral.v1 import model_pb2 as pb
from vitral_export import hub, preprocessor_config
from vitral_export.hub import Checkpoint


def processor(found: Checkpoint) -> Mapping[str, Any] | None:
    """What preprocessor_config.json of the checkpoint says; None where there is none."""
    if not found.has_preprocessor:
        return None
    from transformers.image_processing_base import ImageProcessingMixin

    with hub.quiet(), hub.told(found.name):
        said: Mapping[str, Any] = ImageProcessingMixin.get_image_processor_dict(found.folder)[0]
    return said


def of(
    told: Mapping[str, Any] | None, where: str, *, usual: Sequence[str] = ()
) -> tuple[pb.Preprocessing | None, str]:
    """What a checkpoint's pictures go through, or why that is not known.

    Args:
        told: what its preprocessor_config.json says; None where there is none.
        where: the checkpoint, for the message.
        usual: the image processors that checkpoints of its family name, for the message.
    """
    if told is None:
        why = f"{where} has no {preprocessor_config.FILE}"
    else:
        try:
            return preprocessor_config.read(told), ""
        except InvalidArgumentError as error:
            why = f"{where}: {error}"
    ways = "--preprocessing FILE.json says what its pictures go through, none that there are none"
    family = f" (such checkpoints usually name {' or '.join(usual)})" if usual else ""
    return None, f"{why}: {ways}{family}"

"""Which model, and where it runs, as the arguments of the command say."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vitral.decode import EXACT
from vitral.errors import InvalidArgumentError

if TYPE_CHECKING:
    from vitral_extract.embedder import Embedder

REPO = Path("models")
"""Where a model is looked for when none is named."""


def embedder_of(args: argparse.Namespace) -> Embedder:
    """What the arguments say to embed with; the only model of `REPO` where none is named.

    Raises:
        VitralError: there is none, or it cannot be opened or reached.
    """
    if args.server:
        from vitral_extract.remote import Remote

        return Remote(
            args.server,
            model=args.model,
            timeout=60.0,
            workers=args.workers or 0,
            decode=args.decode,
            size=args.size,
        )
    from vitral_engine.artifact import models
    from vitral_engine.runtime import cpu_count
    from vitral_extract.embedder import InProcess

    if args.model is None:
        found = models(REPO) if REPO.is_dir() else []
        if len(found) != 1:
            said = (
                f"{REPO} holds {len(found)}: {', '.join(map(str, found))}" if found else f"{REPO} holds none"
            )
            raise InvalidArgumentError(f"name the model with --model; {said}")
        args.model = str(found[0])
    workers = args.workers or cpu_count()
    return InProcess(
        Path(args.model), device=args.device, workers=workers, decode=args.decode or EXACT, size=args.size
    )

"""`vitral extract verify` and `vitral extract info`: what a finished data set says of itself."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from vitral_extract.choice import REPO, embedder_of
from vitral_extract.dataset import Dataset
from vitral_extract.dataset import open as open_dataset
from vitral_extract.embedder import Embedder
from vitral_extract.verify import verify


def say_verified(folder: Path, args: argparse.Namespace) -> int:
    """`vitral extract verify DIR`: 0 only where nothing is wrong."""
    data = open_dataset(folder)
    embedder = _same_model(data, args)
    try:
        problems = verify(folder, embedder, sample=args.sample)
    finally:
        if embedder is not None:
            embedder.close()
    for problem in problems:
        print(f"vitral: {folder}: {problem}", file=sys.stderr)
    sampled = min(args.sample, len(data)) if embedder is not None else 0
    if args.json:
        print(json.dumps({"rows": len(data), "embedded_again": sampled, "problems": problems}, indent=1))
    elif not problems:
        again = f"{sampled} embedded again" if sampled else "none embedded again: name the model with --model"
        print(f"{folder}: {len(data)} rows whole; {again}")
    return 1 if problems else 0


def say_info(folder: Path, args: argparse.Namespace) -> int:
    """`vitral extract info DIR`."""
    manifest = {key: value for key, value in open_dataset(folder).manifest.items() if key != "shards"}
    if args.json:
        print(json.dumps(manifest, indent=1, ensure_ascii=False))
        return 0
    width = max(map(len, manifest))
    for key, value in manifest.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        print(f"{key:<{width}}  {text}")
    return 0


def _same_model(data: Dataset, args: argparse.Namespace) -> Embedder | None:
    """The model that is named, or the one that the manifest names where it is at hand."""
    model, version = data.manifest["model"], data.manifest["version"]
    if args.model is None and args.server:
        args.model = model
    elif args.model is None:
        if not (folder := REPO / model / version).is_dir():
            return None
        args.model = str(folder)
    size = data.manifest.get("size")
    args.size = size and tuple(size)
    if not args.server:
        args.decode = args.decode or data.manifest.get("decode")
    return embedder_of(args)

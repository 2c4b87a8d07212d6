"""The command `vitral doctor`. Imported for `vitral --help`: everything heavy is imported when it runs."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from vitral_client.plugins import Command


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    env = os.environ
    repo = "model repository (environment: VITRAL_REPO; now %(default)s)"
    parser.add_argument("--repo", type=Path, default=Path(env.get("VITRAL_REPO", "models")), help=repo)
    parser.add_argument(
        "--model", action="append", metavar="NAME", help="must be served; may be repeated (VITRAL_MODEL)"
    )
    device = "auto, cpu, cuda[:N] or tensorrt[:N] (environment: VITRAL_DEVICE; now %(default)s)"
    parser.add_argument("--device", default=env.get("VITRAL_DEVICE", "auto"), help=device)
    parser.add_argument(
        "--out", type=Path, default=Path(), metavar="DIR", help="where data sets would go; now %(default)s"
    )
    decode = "exact or fast (environment: VITRAL_DECODE; now %(default)s)"
    parser.add_argument("--decode", default=env.get("VITRAL_DECODE", "exact"), help=decode)
    seconds = "time for measuring; models are opened in any case (default: %(default)g)"
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help=seconds)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _run(args: argparse.Namespace) -> int:
    from vitral_doctor import page
    from vitral_doctor.examination import examine
    from vitral_doctor.report import Asked

    named = args.model or os.environ.get("VITRAL_MODEL", "").split(",")
    names = tuple(dict.fromkeys(name.strip() for name in named if name.strip()))
    report = examine(Asked(args.repo, names, args.device, args.out, args.seconds, args.decode))
    if args.json:
        print(json.dumps(report.document(), indent=2, default=str))
    else:
        page.show(report)
    return 0 if report.serves else 1


doctor = Command(
    summary="say whether a server would start here, how fast things are, and what to change",
    extra="server",
    packages=(),  # it says itself what is missing
    add_arguments=_add_arguments,
    run=_run,
)
"""`vitral doctor`: exit code 1 when a server would not start here, or would serve nothing."""

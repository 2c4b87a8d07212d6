"""`vitral extract` itself, in process, with what its writer takes."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np

from vitral.tensors import Array
from vitral_extract import run as runs
from vitral_extract.command import extract
from vitral_extract.dataset import open as open_dataset
from vitral_extract.work import Work


class _Watched(Work):
    """The same work, with the processor time of its writer and the moments that count."""

    last: _Watched | None = None
    begun = ended = handed = cpu = writer_cpu = 0.0

    def run(self, watch: Callable[[], None], *, every: float) -> None:
        """See `Work.run`."""
        type(self).last = self
        self.begun, cpu = time.perf_counter(), time.process_time()
        super().run(watch, every=every)
        self.ended, self.cpu = time.perf_counter(), time.process_time() - cpu

    def _work(self) -> None:
        super()._work()
        self.handed = time.perf_counter()  # the last worker's stays

    def _write(self) -> None:
        start = time.thread_time()
        super()._write()
        self.writer_cpu = time.thread_time() - start


class Extraction:
    """The command over a folder of pictures, each time into a fresh folder."""

    def __init__(self, model: Path, pictures: Path, made: Path) -> None:
        self._out = made / "extracted"
        parser = argparse.ArgumentParser()
        extract.add_arguments(parser)
        where = ["--model", str(model), "--device", "cpu", "--out", str(self._out)]
        self._args = parser.parse_args([str(pictures), *where, "--json", "--quiet"])

    def run(self) -> dict[str, float]:
        """Makes the data set.

        Returns seconds: of each stage over all workers, `sum` from the listing to the manifest, `sum_cpu` of
        the processor while workers and writer ran, `writer_cpu` of it in the writer, `tail` from the last
        worker's end to the writer's, `around` before and after both.
        """
        shutil.rmtree(self._out, ignore_errors=True)
        said = io.StringIO()
        with (
            mock.patch.object(runs, "Work", _Watched),
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            code = extract.run(self._args)
        summary, work = json.loads(said.getvalue()), _Watched.last
        if code or work is None or summary["errors"]:
            raise SystemExit(f"vitral extract ended with {code}: {said.getvalue()}")
        seconds = float(summary["seconds"])  # without opening the model
        return {
            **work.stages.seconds(),
            "sum": seconds,
            "sum_cpu": work.cpu,
            "writer_cpu": work.writer_cpu,
            "tail": work.ended - work.handed,
            "around": seconds - (work.ended - work.begun),
        }

    def row(self, picture: Path) -> Array:
        """The row of a picture, float32."""
        data = open_dataset(self._out)
        [position] = [place for place, name in enumerate(data.ids) if name.endswith(picture.name)]
        [array] = data[position].values()
        return np.asarray(array, np.float32)

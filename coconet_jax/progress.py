"""What a training run tells the world: the terminal, metrics.jsonl, TensorBoard where installed, loss.png."""

import contextlib
import io
import json
import os
import pathlib
import sys
import tempfile
from typing import Any, TextIO

import tqdm

from coconet_jax import config as config_lib
from coconet_jax import devices, files, model, render, storage


class Reporter:
    """Writes a run's numbers; only the lead process does anything.

    metrics.jsonl has one line a report: step, loss and valid_nll (nats per variable), steps_per_second,
    examples_per_second, ... On resuming, lines past the restored step are dropped: they will come again. Where the
    folder is a URL nothing can be added to an object: lines are collected, and all of them written at evaluations and
    at the end, as are TensorBoard's files.
    """

    def __init__(self, folder: storage.Place, first_step: int, config: config_lib.Run, mesh: devices.Mesh):
        self._folder, self._first_step, self._config, self._mesh = folder, first_step, config, mesh
        self._lead = devices.is_lead()
        self._stack = contextlib.ExitStack()
        self._file: TextIO | None = None
        self._board: Any = None
        self._bar: tqdm.tqdm | None = None
        self._staging = pathlib.Path()  # of TensorBoard's files, where the folder is a URL
        self._unwritten = False

    def __enter__(self) -> "Reporter":
        if not self._lead:
            return self
        path = self._folder / "metrics.jsonl"
        kept = [line for line in read_metrics(path) if line["step"] <= self._first_step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        if isinstance(path, pathlib.Path):
            partial = path.with_suffix(".partial")
            partial.write_text(text)
            os.replace(partial, path)
            self._file = self._stack.enter_context(open(path, "a", buffering=1))
            logs = self._folder / "tensorboard"
        else:
            self._file = io.StringIO()
            self._file.write(text)
            logs = self._staging = pathlib.Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        with contextlib.suppress(ImportError):
            import tensorboardX  # type: ignore[import-untyped]

            self._board = self._stack.enter_context(contextlib.closing(tensorboardX.SummaryWriter(str(logs))))
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack:
            if self._bar is not None:
                self._bar.close()
            self._write()
            if isinstance(self._file, io.StringIO) and self._board is not None:
                self._board.close()  # writes what its thread still holds: `flush` does not wait for that
                self._upload_board()

    def _write(self) -> None:
        """Writes what was collected for a URL since the last time, with all that is there already."""
        if not isinstance(self._file, io.StringIO) or not self._unwritten:
            return
        files.replace(self._folder / "metrics.jsonl", self._file.getvalue().encode())
        if self._board is not None:
            self._board.flush()
            self._upload_board()
        self._unwritten = False

    def _upload_board(self) -> None:
        names = [path.name for path in self._staging.iterdir()]
        storage.upload(self._staging, names, storage.Url(f"{self._folder}/tensorboard"))

    def start(self, state: Any, num_pieces: int, source: str) -> None:
        """Says what is about to run."""
        if not self._lead:
            return
        count = model.num_params({"params": state.params})
        verb = f"resuming at step {self._first_step}" if self._first_step else "training"
        print(
            f"{verb}: {count:,} parameters, {num_pieces} pieces of {source}, {devices.describe(self._mesh)}, "
            f"to step {self._config.train.num_steps}",
            flush=True,
        )
        if sys.stderr.isatty():
            self._bar = tqdm.tqdm(total=self._config.train.num_steps, initial=self._first_step, unit="step")

    def report(self, step: int, numbers: dict[str, float]) -> None:
        """Takes the numbers of a step."""
        if not self._lead:
            return
        line = {"step": step, **numbers}
        if "steps_per_second" in numbers:
            line["examples_per_second"] = numbers["steps_per_second"] * self._config.train.batch_size
        assert self._file is not None
        self._file.write(json.dumps(line) + "\n")
        self._unwritten = True
        if self._board is not None:
            for name, value in line.items():
                if name != "step":
                    self._board.add_scalar(name, value, step)
        if "valid_nll" in numbers:
            self._write()
        text = f"loss {numbers['loss']:.4f}"
        if "valid_nll" in numbers:
            text += f", valid {numbers['valid_nll']:.4f} nats per variable"
        if self._bar is not None:
            self._bar.update(step - self._bar.n)
            self._bar.set_postfix_str(text)
            if "valid_nll" in numbers:
                self._bar.write(f"step {step}: {text}", file=sys.stderr)
        else:
            left = (self._config.train.num_steps - step) / max(numbers["steps_per_second"], 1e-9)
            rate = numbers["steps_per_second"]
            ending = f"{left / 60:.0f} min left" if left > 90 else f"{left:.0f} s left"
            print(f"step {step}/{self._config.train.num_steps}: {text}, {rate:.2f} steps/s, {ending}", flush=True)

    def finish(self, stopped: Any) -> None:
        """Draws the loss curve and says how the run ended."""
        if not self._lead:
            return
        if self._bar is not None:
            self._bar.close()
        self._write()
        curve = self._folder / "loss.png"
        render.write_loss_curve(curve, read_metrics(self._folder / "metrics.jsonl"))
        why = {"done": "done", "early": "stopped early: no progress", "signal": "stopped by a signal, saved"}
        print(f"{why[stopped.reason]} at step {stopped.step}; loss curve: {curve}", flush=True)


def read_metrics(path: storage.Named) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line cut short by a kill is left out."""
    lines = []
    with contextlib.suppress(FileNotFoundError):
        for text in storage.place(path).read_bytes().splitlines():
            with contextlib.suppress(ValueError):  # also what a machine that goes down leaves: bytes that are no text
                lines.append(json.loads(text))
    return [line for line in lines if isinstance(line, dict) and "step" in line]

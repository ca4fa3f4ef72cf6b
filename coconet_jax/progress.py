"""What a training run tells the world: the terminal, metrics.jsonl, TensorBoard where installed, loss.png."""

import contextlib
import json
import os
import pathlib
import sys
from typing import Any, TextIO

import tqdm

from coconet_jax import config as config_lib
from coconet_jax import devices, model, render


class Reporter:
    """Writes a run's numbers; only the lead process does anything.

    metrics.jsonl has one line a report: step, loss and valid_nll (nats per variable), steps_per_second,
    examples_per_second, ... On resuming, lines past the restored step are dropped: they will come again.
    """

    def __init__(self, folder: pathlib.Path, first_step: int, config: config_lib.Config, mesh: devices.Mesh):
        self._folder, self._first_step, self._config, self._mesh = folder, first_step, config, mesh
        self._lead = devices.is_lead()
        self._stack = contextlib.ExitStack()
        self._file: TextIO | None = None
        self._board: Any = None
        self._bar: tqdm.tqdm | None = None

    def __enter__(self) -> "Reporter":
        if not self._lead:
            return self
        path = self._folder / "metrics.jsonl"
        kept = [line for line in read_metrics(path) if line["step"] <= self._first_step]
        partial = path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
        os.replace(partial, path)
        self._file = self._stack.enter_context(open(path, "a", buffering=1))
        with contextlib.suppress(ImportError):
            import tensorboardX  # type: ignore[import-untyped]

            self._board = self._stack.enter_context(
                contextlib.closing(tensorboardX.SummaryWriter(str(self._folder / "tensorboard")))
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        self._stack.close()

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
        if self._board is not None:
            for name, value in line.items():
                if name != "step":
                    self._board.add_scalar(name, value, step)
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
        curve = self._folder / "loss.png"
        render.write_loss_curve(curve, read_metrics(self._folder / "metrics.jsonl"))
        why = {"done": "done", "early": "stopped early: no progress", "signal": "stopped by a signal, saved"}
        print(f"{why[stopped.reason]} at step {stopped.step}; loss curve: {curve}", flush=True)


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line cut short by a kill is left out."""
    lines = []
    with contextlib.suppress(FileNotFoundError), open(path) as file:
        for text in file:
            with contextlib.suppress(json.JSONDecodeError):
                lines.append(json.loads(text))
    return lines

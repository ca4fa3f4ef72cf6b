"""Score files of samples, apart from sampling: any subset, in any format, by several processes where a format is slow.

A file follows from its sample alone: neither the subset nor the number of processes shows in it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
import contextlib
import os
import pathlib
import pickle
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from typing import Any, Final, NamedTuple

from jaxtyping import Bool, Int64
import numpy as np

from coconet_jax import audio, counter, devices, errors, files, midi, notation, render, samples, score, storage

SUFFIXES: Final = {"midi": ".mid", "musicxml": ".musicxml", "png": ".png", "wav": ".wav"}
# Roughly what a file of eight bars takes; below so much for each of them, further processes cost more than they save.
_SECONDS: Final = {"midi": 0.0004, "musicxml": 0.007, "png": 0.2, "wav": 1.0}
_SECONDS_A_PROCESS: Final = 2.0
_UPLOADED_AT_ONCE: Final = 64  # files; a store takes many at a time, and each waits for its answer

# A process of its own that imports neither the command nor its network. Not a multiprocessing pool: its processes
# import the program that called, die noisily of ctrl-C and outlive a caller that is killed; these end with their input.
_WORKER: Final = "from coconet_jax import exporting; exporting.serve()"


class _Manner(NamedTuple):
    """How and where all files of an export are written."""

    programs: tuple[int, ...]
    velocities: tuple[int, ...]
    staves: int | None
    staging: str
    out: str


class _Job(NamedTuple):
    """Files to be written of one sample: format and name of each."""

    piece: score.Score
    given: Bool[np.ndarray, "t i"] | None
    files: tuple[tuple[str, str], ...]
    manner: _Manner


def parse_ids(text: str, num_samples: int) -> Int64[np.ndarray, " k"]:
    """Sample numbers such as "0-15,40,99", or "all", each once and in order.

    Raises:
      InputError: something else, or numbers from `num_samples` on.
    """
    if text.strip() == "all":
        return np.arange(num_samples, dtype=np.int64)
    chosen = np.zeros(num_samples, bool)
    shown = f"ids {text if len(text) <= 40 else text[:40] + '...'!r}"
    for part in text.split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        if not _is_number(first) or (dash and not _is_number(last)):
            raise errors.InputError(
                f"{shown}: {part.strip()[:20]!r} is no number; use numbers and ranges such as 0-15,40,99"
            )
        low, high = int(first), int(last if dash else first)
        if low > high:
            raise errors.InputError(f"{shown}: {part.strip()!r} runs backwards; use {high}-{low}")
        if high >= num_samples:
            raise errors.InputError(f"{shown}: there is no sample {high}; use 0 to {num_samples - 1}")
        chosen[low : high + 1] = True
    return np.flatnonzero(chosen).astype(np.int64)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 19


def export(
    made: samples.Samples,
    out: storage.Named,
    formats: Sequence[str],
    *,
    programs: Sequence[int] = notation.PROGRAMS["choir"],
    velocities: Sequence[int] = midi.VELOCITIES,
    qpm: float | None = None,
    staves: int | None = None,
    processes: int | None = None,
    progress: bool = False,
) -> list[storage.Place]:
    """Writes score files `chorale_0007.mid`, ... of samples; each is there whole or not at all.

    Args:
      made: the samples, such as `samples.load_samples(folder, ids=parse_ids("0-15,40", 1000))`.
      out: folder, made where it does not exist; local or a URL.
      formats: of midi, musicxml, png, wav.
      programs: General MIDI programs of the voices.
      velocities: how loud each voice is in MIDI and wav, 1 to 127.
      qpm: quarters a minute (default: that of the samples).
      staves: 2 for MusicXML on two staves (default: one for each voice).
      processes: for slow formats (default: by the cores and the work there is); 1: this one.
      progress: whether to show files/s and the time left.

    Returns:
      The paths, sample by sample.

    Raises:
      InputError: an unknown format or program, a folder that cannot be written to, or a full disk.
    """
    if unknown := [name for name in formats if name not in SUFFIXES]:
        raise errors.InputError(f"format {unknown[0]!r} is unknown; use one or more of {', '.join(SUFFIXES)}")
    if "wav" in formats:
        audio.check()  # before the work, not in the middle of it
    place = files.make_folder(out)
    files.clean_up(place)
    if isinstance(place, storage.Url):
        # Here each file is whole before it becomes an object, which this process alone makes of it.
        staging = written = pathlib.Path(tempfile.mkdtemp(prefix="coconet_jax_"))
    else:
        staging, written = files.temporary_path(place / "export"), place
    manner = _Manner(tuple(programs), tuple(velocities), staves, str(staging), str(written))
    # Handing MIDI to another process would take longer than writing it.
    fast = list(_jobs(made, [name for name in formats if name == "midi"], qpm, manner))
    slow = list(_jobs(made, [name for name in formats if name != "midi"], qpm, manner))
    if processes is None:
        seconds = sum(_SECONDS[kind] for job in slow for kind, _ in job.files)
        processes = min(devices.num_cores(), max(1, round(seconds / _SECONDS_A_PROCESS)))
    lock = threading.Lock()
    try:
        staging.mkdir(exist_ok=True)
        with counter.counting("writing", "files", len(made.pitches) * len(formats), show=progress) as count:
            ready: list[str] = []

            def upload(at_least: int) -> None:
                """Uploads what is ready, where that is as much as this; the rest waits for more."""
                if isinstance(place, storage.Url) and len(ready) >= at_least:
                    storage.upload(written, ready, place)
                    for name in ready:
                        (written / name).unlink()
                    ready.clear()

            def finish(job: _Job) -> None:
                with lock:
                    ready.extend(name for _, name in job.files)
                    upload(_UPLOADED_AT_ONCE)
                    count(len(job.files))

            for job in fast if processes > 1 else fast + slow:
                _write(job)
                finish(job)
            if processes > 1:
                _write_in_processes(slow, processes, finish)
            upload(1)
    except OSError as error:
        raise files.cannot_write(out, error) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return [place / name for job in _jobs(made, formats, qpm, manner) for _, name in job.files]


def _jobs(made: samples.Samples, formats: Sequence[str], qpm: float | None, manner: _Manner) -> Iterator[_Job]:
    """What is to be written of each sample; nothing where no format is wanted."""
    if not formats:
        return
    for pitches, onset, given, number in zip(made.pitches, made.onset, made.given, made.sample_id, strict=True):
        piece = score.Score(
            pitches,
            onset,
            made.meter,
            made.pickup_steps,
            made.steps_per_quarter,
            made.qpm if qpm is None else qpm,
            f"{made.title or 'Chorale'} {number}",
        )
        names = tuple((name, f"chorale_{number:04d}{SUFFIXES[name]}") for name in formats)
        yield _Job(piece, given if given.any() else None, names, manner)


def _write(job: _Job) -> None:
    """Writes the files of a job, each beside its place first."""
    for kind, name in job.files:
        partial, path = (os.path.join(folder, name) for folder in (job.manner.staging, job.manner.out))
        try:
            if kind == "midi":
                notation.write_midi(partial, job.piece, programs=job.manner.programs, velocities=job.manner.velocities)
            elif kind == "musicxml":
                notation.write_musicxml(partial, job.piece, staves=job.manner.staves)
            elif kind == "wav":
                notation.write_wav(partial, job.piece, programs=job.manner.programs, velocities=job.manner.velocities)
            else:
                render.write_pianoroll(partial, job.piece, given=job.given)
        except errors.InputError as error:  # of a full disk, say; to the user the file has the name that it was to have
            raise errors.InputError(str(error).replace(partial, path)) from None
        os.replace(partial, path)


# ------------------------------------------------------------------------------------------- processes


def _write_in_processes(jobs: Iterable[_Job], processes: int, finish: Callable[[_Job], object]) -> None:
    """Lets processes write the jobs; whoever is done takes the next. The first complaint ends them all."""
    waiting: queue.SimpleQueue[_Job] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    # The same modules as here, wherever they were found; in a group of their own, where no ctrl-C reaches them.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with contextlib.ExitStack() as stack:
        workers = []
        for _ in range(processes):
            worker = subprocess.Popen(
                [sys.executable, "-c", _WORKER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
            workers.append(stack.enter_context(_ending(worker)))
        pool = stack.enter_context(futures.ThreadPoolExecutor(processes))
        try:
            for fed in futures.as_completed([pool.submit(_feed, worker, waiting, finish) for worker in workers]):
                fed.result()
        except BaseException:
            for worker in workers:
                worker.kill()  # the threads that wait for them see their end
            raise


@contextlib.contextmanager
def _ending(worker: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is gone, and its pipes closed, at the end."""
    try:
        yield worker
    finally:
        for pipe in (worker.stdin, worker.stdout):
            with contextlib.suppress(OSError):  # what was not yet sent to one that was killed
                if pipe is not None:
                    pipe.close()
        worker.wait()


def _feed(
    worker: subprocess.Popen[bytes], waiting: "queue.SimpleQueue[_Job]", finish: Callable[[_Job], object]
) -> None:
    """Hands jobs to a process, one at a time, until there are none."""
    assert worker.stdin is not None and worker.stdout is not None
    while True:
        try:
            job = waiting.get_nowait()
        except queue.Empty:
            return
        try:
            pickle.dump(job, worker.stdin)
            worker.stdin.flush()
            complaint: Any = pickle.load(worker.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            raise errors.InputError(
                f"a process that writes scores ended with exit code {worker.wait()}; if memory is short, export fewer"
            ) from None
        if complaint:
            raise errors.InputError(complaint)
        finish(job)


def serve() -> None:
    """What such a process does: jobs come in by stdin, and for each a complaint, or "", goes out by stdout."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no reply
    while True:
        try:
            job = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        complaint = ""
        try:
            _write(job)
        except errors.InputError as error:
            complaint = str(error)
        except OSError as error:
            complaint = str(files.cannot_write(job.manner.out, error))
        try:
            pickle.dump(complaint, replies)
            replies.flush()
        except BrokenPipeError:  # whoever asked is gone
            return

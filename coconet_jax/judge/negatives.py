"""What a critic is shown: windows of real music, and what is not real, each with where it is from.

All windows are equally long and sound throughout in all voices, so that neither rests nor padding nor length tell real
from generated; the phase of the crop and the transposition are drawn alike for all of them in training (fit.py).
"""

from collections.abc import Mapping
import pathlib
from typing import Final, NamedTuple
import zipfile

from jaxtyping import Bool, Float, Int8, Integer
import numpy as np

from coconet_jax import corpus, errors, files, pianoroll, storage
from coconet_jax import pieces as pieces_lib
from coconet_jax.judge import beats, sets

REAL: Final = "real"
GENERATED: Final = "generated"
POLISHED: Final = "polished"  # samples that a critic has chosen among, passage by passage
REFILLED: Final = "refilled"
DAMAGED: Final = "damaged"
_ODD: Final = (5, 7, 9, 10, 11, 13, 14, 15)


class Windows(NamedTuple):
    """Windows and where they come from; all arrays have a row for each.

    Attributes:
      pitches: MIDI pitches, no rests.
      kind: "real", "generated", "polished", "refilled" or "damaged".
      source: of what sort, such as "small-14000 gibbs 32" or "damaged: voice late".
      generator: whose work it is: the name of a generator, "" for real and damaged ones.
      piece: the real piece that it is (in part), "split/name"; of samples a number, so that each is a piece of its own.
    """

    pitches: Int8[np.ndarray, "n t 4"]
    kind: np.ndarray
    source: np.ndarray
    generator: np.ndarray
    piece: np.ndarray

    def take(self, rows: Integer[np.ndarray, " m"] | Bool[np.ndarray, " n"]) -> "Windows":
        """Those of some rows."""
        return Windows(*(column[rows] for column in self))

    def refilled(self, pitches: Integer[np.ndarray, "n t 4"], how: str, generator: str) -> "Windows":
        """The same windows after a generator has written a part of each anew, such as "refilled 16"."""
        return _labelled(pitches, REFILLED, f"{generator} {how}", generator, self.piece)


def _labelled(
    pitches: Integer[np.ndarray, "n t 4"], kind: str, source: str, generator: str, piece: np.ndarray
) -> Windows:
    kinds, sources, generators = (np.array([text] * len(pitches), dtype=np.str_) for text in (kind, source, generator))
    return Windows(pitches.astype(np.int8), kinds, sources, generators, piece.astype(np.str_))


def join(parts: list[Windows]) -> Windows:
    """One after another."""
    return Windows(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def generated(pitches: Integer[np.ndarray, "n t 4"], source: str, generator: str, *, polished: bool = False) -> Windows:
    """Samples of a generator, polished by a critic or not; those with rests are left out."""
    pitches = pitches[(pitches != pianoroll.REST).all(axis=(1, 2))]
    piece = np.array([f"{source} {number}" for number in range(len(pitches))], dtype=np.str_)
    return _labelled(pitches, POLISHED if polished else GENERATED, source, generator, piece)


def real_windows(pieces: pieces_lib.Pieces, split: str, steps: int, *, hop: int = 16) -> Windows:
    """Windows of the pieces at every bar that sound throughout; pieces of which train has a near copy are left out."""
    leaking = corpus.leaking_names(split) if split != "train" else ()
    found, names = [], []
    for pitches, length, name in zip(pieces.pitches, pieces.lengths, pieces.names, strict=True):
        for start in range(0, int(length) - steps + 1, hop):
            window = pitches[start : start + steps]
            if name not in leaking and (window != pianoroll.REST).all():
                found.append(window)
                names.append(f"{split}/{name}")
    if not found:
        raise errors.InputError(f"no piece of {split} has {steps} steps that sound throughout; use shorter windows")
    return _labelled(np.stack(found), REAL, REAL, "", np.array(names, dtype=np.str_))


def damaged(rng: np.random.Generator, real: Windows) -> Windows:
    """Each window with one kind of damage, all kinds equally often; near neighbours of real music, and less near."""
    kinds = rng.permutation(np.arange(len(real.pitches)) % len(DAMAGES))
    parts = []
    for number, (name, damage) in enumerate(DAMAGES.items()):
        some = real.take(np.flatnonzero(kinds == number))
        if len(some.pitches):
            parts.append(_labelled(damage(rng, some.pitches), DAMAGED, f"{DAMAGED}: {name}", "", some.piece))
    return join(parts)


def delay_voice(rng: np.random.Generator, pitches: Integer[np.ndarray, "n t 4"]) -> Integer[np.ndarray, "n t 4"]:
    """One voice of each window 1 to 8 steps late; its last notes stand at the start."""
    voices, by = rng.integers(0, pitches.shape[2], len(pitches)), rng.integers(1, 9, len(pitches))
    late = pitches.copy()
    for row, (voice, steps) in enumerate(zip(voices, by, strict=True)):
        late[row, :, voice] = np.roll(pitches[row, :, voice], steps)
    return late


DAMAGES: Final = {name: sets.DAMAGES[name] for name in sets.DAMAGES if name != "uniform notes"} | {
    "voice late": delay_voice
}


# ---------------------------------------------------------------------------------------------- splits


def splits(real: Mapping[str, Windows], pool: Windows, seed: int = 0, *, damages: int = 10) -> dict[str, Windows]:
    """All windows of each split: real ones, those of the pool, and real ones damaged.

    Windows of a real piece stay in the piece's split whatever was done to them, since what is left of it gives it away.
    Of the samples of each source three fifths go to train, a fifth each to valid and test.

    Args:
      real: by split.
      pool: samples and refilled crops.
      seed: of the damage.
      damages: times that every real window of train is damaged, each time anew; the others are once.
    """
    place = np.concatenate([np.arange(n) for n in _counts(pool.source)]) if len(pool.source) else np.zeros(0, int)
    order = np.argsort(pool.source, kind="stable")
    turn = np.empty(len(pool.source), int)
    turn[order] = place
    by_turn = np.array(["train", "train", "train", "valid", "test"])[turn % 5]
    by_piece = np.array([name.split("/")[0] for name in pool.piece], dtype=np.str_)
    split_of = np.where(pool.kind == REFILLED, by_piece, by_turn)
    found = {}
    for number, (name, windows) in enumerate(real.items()):
        rng = np.random.default_rng([seed, number])
        broken = [damaged(rng, windows) for _ in range(damages if name == "train" else 1)]
        found[name] = join([windows, pool.take(split_of == name), *broken])
    return found


def _counts(names: np.ndarray) -> Integer[np.ndarray, " k"]:
    return np.unique(names, return_counts=True)[1]


def weigh(windows: Windows) -> Float[np.ndarray, " n"]:
    """Weights that sum to 1: half for real windows, all pieces alike; half for the others, kinds alike (generated,
    polished, refilled, damaged), within a kind all generators alike, and of each all sources.

    Polished samples are a kind, few as they are: what a critic does not turn down in them polishing makes more of.
    """
    levels = np.stack([windows.kind, windows.generator, windows.source])
    fake = _share(levels, windows.kind != REAL)
    real = _share(windows.piece[None], windows.kind == REAL)
    return (real + fake) / (real + fake).sum()


def _share(levels: np.ndarray, among: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """1 shared out among some rows, equally at each level between the names that occur there, from the first on."""
    weights = among.astype(float)
    within = np.zeros(len(among), int)
    for names in (*levels, np.arange(len(among)).astype(np.str_)):
        pairs = np.unique(np.stack([within[among], np.unique(names, return_inverse=True)[1][among]]), axis=1)
        children = np.bincount(pairs[0], minlength=within.max(initial=0) + 1)
        weights[among] /= children[within[among]]
        joint = np.stack([within, np.unique(names, return_inverse=True)[1]])
        within = np.unique(joint, axis=1, return_inverse=True)[1].reshape(-1)
    return weights


def cues(pitches: Integer[np.ndarray, "n t 4"]) -> dict[str, Float[np.ndarray, " n"]]:
    """What might give windows away without any music in it, one number each.

    `odd_lengths` is the share of notes, not counting the first and last of each voice, that last 5, 7, 9, 10, 11 or 13
    to 15 steps: lengths that one note sign cannot write.
    """
    phases = beats.estimate_phases(pitches)
    found = {
        "rests": (pitches == pianoroll.REST).mean(axis=(1, 2)),
        "mean_pitch": pitches.mean(axis=(1, 2)),
        "highest": pitches.max(axis=(1, 2)).astype(float),
        "lowest": pitches.min(axis=(1, 2)).astype(float),
        **{f"phase_{phase}": (phases == phase).astype(float) for phase in range(4)},
    }
    odd = np.zeros(len(pitches))
    for row, window in enumerate(pitches):
        lengths = np.concatenate([np.diff(np.flatnonzero(np.diff(line))) for line in window.T])
        odd[row] = np.isin(lengths, _ODD).mean() if len(lengths) else 0.0
    return found | {"odd_lengths": odd}


# ------------------------------------------------------------------------------------------------ files


def write_pool(path: storage.Named, windows: Windows) -> None:
    """Writes windows as one npz."""
    files.replace_npz(path, **windows._asdict())


def read_pool(folder: storage.Named) -> Windows:
    """All windows of the npz files in a folder, in order of their names, each once.

    Runs of one seed and unequal size share samples, which must not meet again in another split.

    Raises:
      InputError: there are none, or a file is not of this kind.
    """
    parts = []
    for path in sorted(pathlib.Path(str(folder)).glob("*.npz")):
        try:
            with np.load(path, allow_pickle=False) as file:
                parts.append(Windows(*(file[name] for name in Windows._fields)))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise errors.InputError(f"{path} is no part of a pool ({error}); move it elsewhere") from None
    if not parts:
        raise errors.InputError(f"{folder} holds no samples; fill it with python benchmarks/critic_pool.py")
    every = join(parts)
    first = np.unique(every.pitches.reshape(len(every.pitches), -1), axis=0, return_index=True)[1]
    return every.take(np.sort(first))

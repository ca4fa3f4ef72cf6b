"""From prepared pieces to batches of random crops, drawn inside the compiled step.

All pieces live on the device as int8 pitches; cropping, transposing and one-hot happen there, from a key
that depends on the step alone. Sets too large for the device stream: the host draws the same crops by the
same function and sends the batch.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Int8, Int32, Key
import numpy as np

from coconet_jax import config as config_lib
from coconet_jax import corpus, errors, pianoroll
from coconet_jax import pieces as pieces_lib
from coconet_jax.pianoroll import AnyArray


class Batch(NamedTuple):
    """Crops of pieces: MIDI pitches (-1 where a voice rests and in the padding), and where the piece is."""

    pitches: Int8[AnyArray, "b t 4"]
    valid: Bool[AnyArray, "b t"]


class Table(NamedTuple):
    """What drawing a crop needs to know of each piece."""

    lengths: Int32[AnyArray, " n"]
    room: Int32[AnyArray, "n 2"]  # semitones down (<= 0) and up
    starts_through: Int32[AnyArray, " n"]  # possible crop starts in this piece and those before it
    # The first possible start in each piece where crops may begin before it. Else None, and no part of a run's digest.
    first: Int32[AnyArray, ""] | None = None


class Resident(NamedTuple):
    """A whole split, to live on the device."""

    pitches: Int8[AnyArray, "n t 4"]
    table: Table


class Validation(NamedTuple):
    """The windows that are evaluated, of how many, and which belong to pieces of which train has no near copy."""

    windows: Batch
    total: int
    clean: Bool[AnyArray, " b"]


class Crops(NamedTuple):
    """Where each example of a batch comes from."""

    piece: Int32[AnyArray, " b"]
    start: Int32[AnyArray, " b"]
    shift: Int32[AnyArray, " b"]  # semitones
    length: Int32[AnyArray, " b"]  # steps from `start` to the end of the piece, at most the crop's


def read(config: config_lib.Data) -> pieces_lib.PieceSet:
    """The prepared set a config names: an exported npz, whatever its grid, or TFDS (prepared on first use).

    Raises:
      InputError: nothing usable there.
    """
    if config.path:
        return pieces_lib.read_npz(config.path)
    try:
        # TFDS is wanted here alone, so that training from an npz runs without it.
        from coconet_jax import chorales
    except ImportError as error:
        raise errors.InputError(
            f"data.dataset={config.dataset} needs {error.name}, which is not installed here; give a file made "
            "elsewhere by python -m coconet_jax.chorales --export=FILE.npz (train: "
            "--config.data.path=FILE.npz, evaluate: --data=FILE.npz)"
        ) from None
    return chorales.load(
        config.dataset,
        steps_per_quarter=config.steps_per_quarter,
        source=config.source or None,
        data_dir=config.data_dir or None,
    )


def load(config: config_lib.Data) -> pieces_lib.PieceSet:
    """The set to train on: see `read`.

    Raises:
      InputError: it stands on another grid than `steps_per_quarter`, or has no pieces of train or valid.
    """
    piece_set = read(config)
    if piece_set.steps_per_quarter != config.steps_per_quarter:
        raise errors.InputError(
            f"data.steps_per_quarter={config.steps_per_quarter}, but the pieces stand on "
            f"{piece_set.steps_per_quarter}; use data.steps_per_quarter={piece_set.steps_per_quarter}"
        )
    for split in ("train", "valid"):
        if split not in piece_set.splits or not len(piece_set.splits[split].lengths):
            raise errors.InputError(
                f"{piece_set.source} has no {split} pieces; training needs train and valid: give more scores (a folder "
                "is split by file name, a tenth each for valid and test; one npz stays together: save several)"
            )
    return piece_set


def make_resident(pieces: pieces_lib.Pieces, config: config_lib.Data) -> Resident:
    """A split as the arrays a step draws from (numpy; the caller places them)."""
    lengths = pieces.lengths.astype(np.int32)
    columns = {"none": None, "pitch": slice(0, 2), "voice": slice(2, 4)}[config.transpose]
    if columns is None:
        room = np.zeros((len(lengths), 2), np.int32)
    else:
        room = pieces.transpose_room[:, columns].astype(np.int32)
    grid = config_lib.crop_grid(config)
    out = config.crop_steps // 2 // grid * grid if config.ends else 0
    last = np.maximum(lengths - config.crop_steps + out, 0)
    starts = (last + out) // grid + 1
    first = np.int32(-out) if config.ends else None
    missing = max(config.crop_steps - pieces.pitches.shape[1], 0)
    pitches = np.pad(pieces.pitches, ((0, 0), (0, missing), (0, 0)), constant_values=pianoroll.REST)
    return Resident(pitches, Table(lengths, room, np.cumsum(starts, dtype=np.int32), first))


def some_pieces(resident: Resident, mebibytes: int) -> Resident:
    """As many pieces, chosen at random once and for all, as fit into so much memory (numpy)."""
    share = mebibytes * 2**20 / max(resident.pitches.nbytes, 1)
    count = max(int(len(resident.pitches) * min(share, 1.0)), 1)
    rows = np.random.default_rng(0).permutation(len(resident.pitches))[:count]
    starts = np.diff(resident.table.starts_through, prepend=0)[rows]
    table = resident.table
    table = Table(table.lengths[rows], table.room[rows], np.cumsum(starts, dtype=np.int32), table.first)
    return Resident(resident.pitches[rows], table)


def draw_crops(key: Key[Array, ""], index: Int[Array, " b"], table: Table, *, crop_steps: int, grid: int) -> Crops:
    """Crops uniform over all possible starts of all pieces, each with a shift uniform in its piece's room.

    Args:
      key: the step's.
      index: place of each example in the global batch; with `key` it settles the crop.
      table: of all pieces.
      crop_steps: steps in a crop. A shorter piece is taken whole.
      grid: steps between possible starts.
    """

    def one(index: Int[Array, ""]) -> Crops:
        key_start, key_shift = jax.random.split(jax.random.fold_in(key, index))
        place = jax.random.randint(key_start, (), 0, table.starts_through[-1])
        piece = jnp.searchsorted(table.starts_through, place, side="right").astype(jnp.int32)
        before = jnp.where(piece > 0, table.starts_through[piece - 1], 0)
        start = (place - before) * grid
        if table.first is not None:
            start += table.first
        low, high = table.room[piece]
        shift = jax.random.randint(key_shift, (), low, high + 1)
        return Crops(piece, start, shift, jnp.minimum(table.lengths[piece] - start, crop_steps))

    return jax.vmap(one)(index)


def cut(pitches: Int8[AnyArray, "n t 4"], crops: Crops, crop_steps: int) -> Batch:
    """Takes the crops out of the pieces, on the device or, given numpy arrays, on the host."""
    xp = np if isinstance(pitches, np.ndarray) else jnp
    steps = xp.arange(crop_steps)
    times = crops.start[:, None] + steps[None, :]
    valid = (times >= 0) & (steps[None, :] < crops.length[:, None])
    # Outside the array the index is held: what it finds there is not valid.
    times = xp.clip(times, 0, pitches.shape[1] - 1)
    notes = pitches[crops.piece[:, None], times]
    sounding = valid[..., None] & (notes != pianoroll.REST)
    moved = xp.where(sounding, notes + crops.shift[:, None, None], pianoroll.REST)
    return Batch(moved.astype(xp.int8), valid)


def draw_batch(
    key: Key[Array, ""], index: Int[Array, " b"], resident: Resident, *, crop_steps: int, grid: int
) -> Batch:
    """Draws crops and takes them, inside a compiled step: see `draw_crops`."""
    crops = draw_crops(key, index, resident.table, crop_steps=crop_steps, grid=grid)
    return cut(resident.pitches, crops, crop_steps)


def step_key(seed: int, step: Int[Array, ""] | int) -> Key[Array, ""]:
    """The key of a training step: a run restarted at a step sees the batches of an uninterrupted one."""
    return jax.random.fold_in(jax.random.key(seed), step)


def stream(
    resident: Resident, config: config_lib.Data, *, seed: int, first_step: int, rows: np.ndarray
) -> Iterator[Batch]:
    """Batches from host memory for the steps from `first_step` on: what `draw_batch` draws, without the device.

    Args:
      resident: numpy arrays.
      config: for crop_steps and the grid.
      seed: train.seed.
      first_step: the step of the first batch.
      rows: places in the global batch that this process provides.
    """
    host = jax.local_devices(backend="cpu")[0]
    grid = config_lib.crop_grid(config)

    @jax.jit
    def draw(step: Int[Array, ""], table: Table) -> Crops:
        key = batch_key(step_key(seed, step))
        return draw_crops(key, jnp.asarray(rows), table, crop_steps=config.crop_steps, grid=grid)

    step = first_step
    while True:
        with jax.default_device(host):
            crops = jax.tree.map(np.asarray, draw(np.int32(step), resident.table))
        yield cut(resident.pitches, Crops(*crops), config.crop_steps)
        step += 1


def batch_key(key: Key[Array, ""]) -> Key[Array, ""]:
    """The part of a step's key that draws the crops (the other part draws the contexts)."""
    return jax.random.fold_in(key, 0)


def context_key(key: Key[Array, ""]) -> Key[Array, ""]:
    """The part of a step's key that draws the contexts."""
    return jax.random.fold_in(key, 1)


def dropout_key(key: Key[Array, ""]) -> Key[Array, ""]:
    """The part of a step's key that draws what the network does without."""
    return jax.random.fold_in(key, 2)


def windows(pieces: pieces_lib.Pieces, steps: int) -> Batch:
    """All pieces of a split cut into windows of `steps`, none overlapping, the last of each piece padded (numpy)."""
    counts = -(-pieces.lengths // steps)
    piece = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    start = np.concatenate([np.arange(count, dtype=np.int32) * steps for count in counts])
    length = np.minimum(pieces.lengths[piece] - start, steps).astype(np.int32)
    return cut(pieces.pitches, Crops(piece, start, np.zeros_like(start), length), steps)


def validation(pieces: pieces_lib.Pieces, config: config_lib.Data) -> Validation:
    """The windows of the validation pieces; of very many a choice, always the same, that fits device_mib (numpy)."""
    batch = windows(pieces, config.crop_steps)
    clean = np.repeat(~np.isin(pieces.names, corpus.leaking_names("valid")), -(-pieces.lengths // config.crop_steps))
    total = len(clean)
    most = max(config.device_mib * 2**20 * total // (batch.pitches.nbytes + batch.valid.nbytes), 1)
    rows = np.sort(np.random.default_rng(0).permutation(total)[:most])
    return Validation(Batch(batch.pitches[rows], batch.valid[rows]), total, clean[rows])


def pad_rows(batch: Batch, multiple: int) -> Batch:
    """Adds examples that hold nothing, so that the number of rows is a multiple (numpy)."""
    missing = -len(batch.valid) % multiple
    pitches = np.pad(batch.pitches, ((0, missing), (0, 0), (0, 0)), constant_values=pianoroll.REST)
    return Batch(pitches, np.pad(batch.valid, ((0, missing), (0, 0))))

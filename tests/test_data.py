"""Crops: their law, their contents, and that a batch is the same however it is drawn."""

import functools
import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import coconet_jax
from coconet_jax import config, data, devices, errors, pianoroll, pieces, weights

CROP, GRID = 16, 4
SETTINGS = config.Data(crop_steps=CROP)
DRAWS = 30_000
CUT = jax.jit(lambda pitches, crops: data.cut(pitches, crops, CROP))


@pytest.fixture(scope="module")
def train(toy_pieces: pieces.PieceSet) -> pieces.Pieces:
    return toy_pieces.splits["train"]


@functools.partial(jax.jit, static_argnames="grid")
def draw_crops(key: jax.Array, index: jax.Array, table: data.Table, grid: int) -> data.Crops:
    return data.draw_crops(key, index, table, crop_steps=CROP, grid=grid)


def draw(resident: data.Resident, grid: int = GRID, seed: int = 0) -> data.Crops:
    table = jax.tree.map(jnp.asarray, resident.table)
    return jax.tree.map(np.asarray, draw_crops(jax.random.key(seed), jnp.arange(DRAWS), table, grid))


@pytest.mark.parametrize("grid", [1, 4, 5])
def test_crops_are_uniform_over_the_positions_of_all_pieces(train, grid):
    settings = config.Data(crop_steps=CROP, crop_grid=grid)
    crops = draw(data.make_resident(train, settings), grid)
    positions = [
        (piece, start)
        for piece, length in enumerate(train.lengths)
        for start in range(0, max(length - CROP, 0) + 1, grid)
    ]
    assert len(positions) == {1: 102, 4: 29, 5: 22}[grid]
    place = {position: n for n, position in enumerate(positions)}
    counts = np.zeros(len(positions))
    for position in zip(crops.piece.tolist(), crops.start.tolist(), strict=True):
        counts[place[position]] += 1  # a start off the grid, or past the last, has no place
    assert stats.chisquare(counts).pvalue > 1e-3
    np.testing.assert_array_equal(crops.length, np.minimum(train.lengths[crops.piece] - crops.start, CROP))


@pytest.mark.parametrize("transpose, columns", [("none", None), ("pitch", (0, 1)), ("voice", (2, 3))])
def test_shifts_are_uniform_in_the_room_of_each_piece(train, transpose, columns):
    settings = config.Data(crop_steps=CROP, transpose=transpose)
    crops = draw(data.make_resident(train, settings), seed=1)
    rooms = [(0, 0) if columns is None else tuple(int(room[c]) for c in columns) for room in train.transpose_room]
    assert columns is None or len(set(rooms)) > 1
    for piece, (down, up) in enumerate(rooms):
        shifts = crops.shift[crops.piece == piece]
        counts = np.bincount(shifts - down, minlength=up - down + 1)
        assert len(counts) == up - down + 1
        if down < up:
            assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("transpose", ["none", "pitch", "voice"])
def test_contents_are_a_slice_of_the_piece_moved(train, transpose):
    settings = config.Data(crop_steps=CROP, transpose=transpose)
    resident = data.make_resident(train, settings)
    crops = data.Crops(*(field[:300] for field in draw(resident)))
    assert {3} < set(crops.piece.tolist())  # the piece that is shorter than a crop is among them
    host = data.cut(resident.pitches, crops, CROP)
    device = CUT(jnp.asarray(resident.pitches), data.Crops(*map(jnp.asarray, crops)))
    assert host.pitches.dtype == device.pitches.dtype == np.int8
    jax.tree.map(np.testing.assert_array_equal, host, data.Batch(*map(np.asarray, device)))
    for n, (piece, start, shift, length) in enumerate(zip(*crops, strict=True)):
        notes = train.pitches[piece, start : start + length]
        expected = np.where(notes == pianoroll.REST, pianoroll.REST, notes + shift)
        np.testing.assert_array_equal(host.pitches[n, :length], expected)
        assert host.valid[n].tolist() == [True] * length + [False] * (CROP - length)
        assert (host.pitches[n, length:] == pianoroll.REST).all()
    assert pianoroll.in_range(host.pitches).all()
    if transpose == "voice":
        for voice, (low, high) in enumerate(pianoroll.VOICE_RANGES):
            sounding = host.pitches[..., voice][host.pitches[..., voice] != pianoroll.REST]
            assert sounding.min() >= low and sounding.max() <= high


@pytest.mark.parametrize("grid", [1, 4, 5])
def test_crops_that_show_ends_stick_out_by_half_of_their_length_at_most(train, grid):
    resident = data.make_resident(train, config.Data(crop_steps=CROP, crop_grid=grid, transpose="none", ends=True))
    crops = draw(resident, grid)
    out = CROP // 2 // grid * grid
    positions = [
        (piece, start)
        for piece, length in enumerate(train.lengths)
        for start in range(-out, max(length - CROP + out, 0) + 1, grid)
    ]
    place = {position: n for n, position in enumerate(positions)}
    counts = np.zeros(len(positions))
    for position in zip(crops.piece.tolist(), crops.start.tolist(), strict=True):
        counts[place[position]] += 1
    assert stats.chisquare(counts).pvalue > 1e-3
    some = data.Crops(*(field[:300] for field in crops))
    host = data.cut(resident.pitches, some, CROP)
    device = CUT(jnp.asarray(resident.pitches), data.Crops(*map(jnp.asarray, some)))
    jax.tree.map(np.testing.assert_array_equal, host, data.Batch(*map(np.asarray, device)))
    for piece, start, pitches, valid in zip(some.piece, some.start, *host, strict=True):
        inside = [0 <= start + step < train.lengths[piece] for step in range(CROP)]
        assert valid.tolist() == inside and any(inside)
        np.testing.assert_array_equal(pitches[valid], train.pitches[piece, max(start, 0) : start + CROP][: sum(inside)])
        assert (pitches[~valid] == pianoroll.REST).all()
    assert not host.valid[:, 0].all() and not host.valid[:, -1].all()


def test_pieces_shorter_than_a_crop_are_padded_and_taken_whole(train):
    short = pieces.from_arrays([train.pitches[0, :5], train.pitches[1, :9]], ["a", "b"])
    resident = data.make_resident(short, config.Data(crop_steps=CROP, transpose="none"))
    assert resident.pitches.shape == (2, CROP, 4)
    batch = step_batch(jax.tree.map(jnp.asarray, resident), jnp.arange(8))
    assert set(batch.valid.sum(axis=1).tolist()) == {5, 9}
    for pitches, valid in zip(np.asarray(batch.pitches), np.asarray(batch.valid), strict=True):
        assert (pitches[~valid] == pianoroll.REST).all()
        np.testing.assert_array_equal(pitches[valid], train.pitches[0 if valid.sum() == 5 else 1, : valid.sum()])


# --------------------------------------------------------------------------------------- the same, anyhow


def test_the_digest_of_what_a_run_trains_on_is_what_it_was(train):
    """Runs are resumed by it."""
    digest = "7184908639c0ad448f4e142096e35d9b66f8e7f3735d1f512547fff26ee5b3bb"
    assert weights.digest(data.make_resident(train, SETTINGS)) == digest


@functools.partial(jax.jit, static_argnames="seed")
def step_batch(resident: data.Resident, index: jax.Array, step: int = 5, seed: int = 3) -> data.Batch:
    key = data.batch_key(data.step_key(seed, step))
    return data.draw_batch(key, index, resident, crop_steps=CROP, grid=GRID)


@pytest.fixture(scope="module")
def resident(train) -> data.Resident:
    return jax.tree.map(jnp.asarray, data.make_resident(train, SETTINGS))


def test_a_batch_drawn_in_parts_is_the_batch(resident):
    whole = step_batch(resident, jnp.arange(16), 5)
    assert len(np.unique(np.asarray(whole.pitches).reshape(16, -1), axis=0)) > 10
    for rows in (np.arange(12, 16), np.array([15, 0, 7, 7])):
        part = step_batch(resident, jnp.asarray(rows), 5)
        np.testing.assert_array_equal(part.pitches, whole.pitches[rows])
        np.testing.assert_array_equal(part.valid, whole.valid[rows])
    # A step or a seed of its own has a batch of its own.
    for other in (step_batch(resident, jnp.arange(16), 6), step_batch(resident, jnp.arange(16), 5, seed=4)):
        assert (other.pitches != whole.pitches).any()


@pytest.mark.parametrize("num_devices", [1, 2, 8])
def test_a_batch_is_the_same_on_any_number_of_devices(resident, num_devices):
    mesh = devices.make_mesh(num_devices)
    local = 16 // num_devices

    def body(resident: data.Resident) -> data.Batch:
        index = jax.lax.axis_index(devices.AXIS) * local + jnp.arange(local)
        batch = step_batch(resident, index)
        return jax.tree.map(lambda x: jax.lax.all_gather(x, devices.AXIS, tiled=True), batch)

    found = devices.map_body(body, mesh, "shard_map", sharded=(False,))(devices.replicate(resident, mesh))
    jax.tree.map(np.testing.assert_array_equal, found, step_batch(resident, jnp.arange(16)))


@pytest.mark.parametrize("rows", [np.arange(16), np.arange(8, 12)], ids=["all", "of one process"])
def test_a_stream_draws_what_the_device_draws(resident, rows):
    stream = data.stream(jax.tree.map(np.asarray, resident), SETTINGS, seed=3, first_step=5, rows=rows.astype(np.int32))
    for step, batch in enumerate(itertools.islice(stream, 3), start=5):
        assert isinstance(batch.pitches, np.ndarray)
        expected = step_batch(resident, jnp.asarray(rows), step)
        np.testing.assert_array_equal(batch.pitches, expected.pitches)
        np.testing.assert_array_equal(batch.valid, expected.valid)
        assert batch.pitches.dtype == expected.pitches.dtype


def test_keys_of_a_step_differ():
    keys = [data.step_key(seed, step) for seed in (0, 1) for step in (0, 1)]
    keys += [part(key) for key in keys for part in (data.batch_key, data.context_key)]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == 12


# ------------------------------------------------------------------------------------------------- windows


@pytest.mark.parametrize("steps", [7, 16, 64])
def test_windows_hold_every_step_exactly_once_and_in_order(train, steps):
    batch = data.windows(train, steps)
    assert batch.valid.shape == (sum(-(-int(n) // steps) for n in train.lengths), steps)
    assert batch.pitches.dtype == np.int8
    expected = np.concatenate([p[:n] for p, n in zip(train.pitches, train.lengths, strict=True)])
    np.testing.assert_array_equal(batch.pitches[batch.valid], expected)
    assert (batch.pitches[~batch.valid] == pianoroll.REST).all()
    # Valid first, padding last, and no window without a step.
    assert (np.diff(batch.valid.astype(int), axis=1) <= 0).all()
    assert batch.valid[:, 0].all()


def test_validation_marks_windows_of_pieces_that_train_nearly_holds(train):
    pieces_of = train._replace(names=("a", "bwv253", "b", "c", "bwv280"))
    valid = data.validation(pieces_of, SETTINGS)
    expected = [name not in ("bwv253", "bwv280") for name, n in zip(pieces_of.names, train.lengths, strict=True)
                for _ in range(-(-int(n) // CROP))]  # fmt: skip
    assert valid.clean.tolist() == expected and not all(expected)
    jax.tree.map(np.testing.assert_array_equal, valid.windows, data.windows(train, CROP))
    assert valid.total == len(expected)


def test_validation_is_bounded_by_the_devices_share(train):
    many = pieces.from_arrays([np.full((CROP * 100, 4), 60 + n // 25, np.int16) for n in range(200)], ["x"] * 200)
    settings = config.Data(crop_steps=CROP, device_mib=1)
    some = data.validation(many, settings)
    size = some.windows.pitches.nbytes + some.windows.valid.nbytes
    assert 2**20 - 5 * CROP < size <= 2**20
    assert some.total == 20_000 > len(some.clean) == len(some.windows.valid)
    jax.tree.map(np.testing.assert_array_equal, some, data.validation(many, settings))
    assert set(some.windows.pitches[:, 0, 0].tolist()) == set(range(60, 68))  # from everywhere, not the first


def test_pad_rows(train):
    batch = data.windows(train, 16)
    rows = len(batch.valid)
    padded = data.pad_rows(batch, 8)
    assert len(padded.valid) == len(padded.pitches) == 16
    np.testing.assert_array_equal(padded.pitches[:rows], batch.pitches)
    np.testing.assert_array_equal(padded.valid[:rows], batch.valid)
    assert not padded.valid[rows:].any()
    assert (padded.pitches[rows:] == pianoroll.REST).all()
    jax.tree.map(np.testing.assert_array_equal, data.pad_rows(padded, 8), padded)


# ------------------------------------------------------------------------------------------------- loading


def test_an_exported_file_is_read_and_wins_over_the_dataset(toy_path, toy_pieces):
    found = data.load(config.Data(path=toy_path, dataset="folder"))
    assert found.source == "toy"
    for split, expected in toy_pieces.splits.items():
        np.testing.assert_array_equal(found.splits[split].pitches, expected.pitches)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(errors.InputError, match=r"none\.npz does not exist; make it with python -m coconet_jax\.chor"):
        data.load(config.Data(path=str(tmp_path / "none.npz")))


def test_another_grid_is_refused(toy_path):
    message = r"^data\.steps_per_quarter=2, but the pieces stand on 4; use data\.steps_per_quarter=4$"
    with pytest.raises(errors.InputError, match=message):
        data.load(config.Data(path=toy_path, steps_per_quarter=2))


@pytest.mark.parametrize("split", ["train", "valid"])
@pytest.mark.parametrize("how", ["empty", "missing"])
def test_a_set_without_training_or_validation_pieces_is_refused(toy_pieces, tmp_path, split, how):
    splits = dict(toy_pieces.splits)
    splits[split] = pieces.from_arrays([], [])
    if how == "missing":
        if split == "train":
            pytest.skip("a file without a training split is refused by pieces.read_npz")
        del splits[split]
    path = tmp_path / "part.npz"
    pieces.write_npz(path, toy_pieces._replace(splits=splits))
    with pytest.raises(
        errors.InputError, match=rf"^toy has no {split} pieces; training needs train and valid: give more scores"
    ):
        data.load(config.Data(path=str(path)))


def test_a_machine_without_tfds_is_told_to_train_from_a_file(monkeypatch):
    for name in ("chorales", "chorales_builder"):
        monkeypatch.delitem(sys.modules, f"coconet_jax.{name}", raising=False)
        monkeypatch.delattr(coconet_jax, name, raising=False)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    message = (
        r"^data\.dataset=music21 needs tensorflow_datasets, which is not installed here; give a file made "
        r"elsewhere by python -m coconet_jax\.chorales --export=FILE\.npz \(train: "
        r"--config\.data\.path=FILE\.npz, evaluate: --data=FILE\.npz\)$"
    )
    with pytest.raises(errors.InputError, match=message):
        data.load(config.Data())

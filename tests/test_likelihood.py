"""Log-probabilities along orderings: a plain reference, laws of an enumerable toy, batches and devices."""

import functools
import itertools
import pathlib
from typing import Any

import conftest
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_nll
import test_objective

from coconet_jax import checkpoint, devices, estimates, likelihood, model, orderings, pieces

DATA = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
SMALL = conftest.REPOSITORY / "checkpoints" / "small"


@pytest.fixture(scope="module")
def lively(tiny_variables) -> Any:
    """The tiny net with opinions: at its initial scales it gives all pitches nearly alike."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.full_like(leaf, 1.5) if "scale" in jax.tree_util.keystr(path) else leaf, tiny_variables
    )


def corpus_of(arrays: list[np.ndarray], number: list[int] | None = None) -> likelihood.Corpus:
    made = pieces.from_arrays(arrays, [""] * len(arrays))
    return likelihood.Corpus(made.pitches, made.lengths, np.array(number or range(len(arrays)), np.int32))


def rows_of(triples: Any) -> likelihood.Rows:
    return likelihood.Rows(*np.array(list(triples), np.int32).T)


def score(
    variables: Any,
    config: Any,
    corpus: likelihood.Corpus,
    rows: likelihood.Rows,
    protocol: likelihood.Protocol,
    *,
    seed: int = 0,
    batch_size: int = 4,
    num_devices: int = 2,
) -> np.ndarray:
    mesh = devices.make_mesh(num_devices)
    scorer = likelihood.prepare(likelihood.Scorer(variables, likelihood.net_of(config), corpus, seed, batch_size, mesh))
    return np.concatenate(list(likelihood.score(scorer, rows, protocol)))


# ------------------------------------------------------------------------------------- the reference


@pytest.mark.parametrize("name", estimates.MEASURES)
def test_a_plain_loop_gives_the_same(tiny_config, lively, toy_pieces, name):
    """Pieces of several lengths, one shorter than the reach, with rests: every frame of both."""
    split = toy_pieces.splits["train"]
    corpus = corpus_of([split.pitches[n][: split.lengths[n]] for n in (3, 1)], [7, 3])
    assert (corpus.pitches[1, :24] == -1).any()
    measure = estimates.MEASURES[name]
    forward = jax.jit(model.make_predict(lively, tiny_config.model))
    for piece, steps, ordering in ((0, 12, 0), (1, 24, 2)):
        rows = rows_of((piece, t, ordering) for t in range(steps))
        protocol = likelihood.Protocol(measure.order, measure.feed)
        found = score(lively, tiny_config.model, corpus, rows, protocol, seed=5)
        expected = reference_nll.row(forward, corpus, piece, ordering, list(range(steps)), name, seed=5)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert np.ptp(found) > 0.1  # else any answer would do


def test_a_net_that_knows_beats_is_told_where_they_are(beating_config, beating_variables, toy_pieces):
    split = toy_pieces.splits["train"]
    corpus = corpus_of([split.pitches[n][: split.lengths[n]] for n in (3, 1)])
    predict = model.make_predict(beating_variables, beating_config.model)
    rows, name = rows_of((1, t, 0) for t in range(24)), "notewise_chronological"
    protocol = likelihood.Protocol(estimates.MEASURES[name].order, estimates.MEASURES[name].feed)
    found = {}
    for pickup in (None, 3, 1):
        marked = corpus if pickup is None else corpus._replace(pickup=np.array([2, pickup], np.int32))
        found[pickup] = score(beating_variables, beating_config.model, marked, rows, protocol)
        forward = jax.jit(lambda roll, context, valid, first=-(pickup or 0): predict(roll, context, valid, first))
        expected = reference_nll.row(forward, corpus, 1, 0, list(range(24)), name, seed=0)
        np.testing.assert_allclose(found[pickup], expected, atol=1e-5)
    assert np.abs(found[None] - found[3]).max() > 0.01 < np.abs(found[1] - found[3]).max()


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="the paper's dataset is not beside this checkout")
def test_real_chorales_with_the_trained_net_agree_with_the_plain_loop():
    loaded = checkpoint.load(SMALL)
    forward = jax.jit(model.make_predict(loaded.variables, loaded.config.model))
    with np.load(DATA / "Jsb16thSeparated.npz", allow_pickle=True, encoding="latin1") as stored:
        chorales = [np.nan_to_num(chorale, nan=-1).astype(np.int16) for chorale in stored["valid"]]
    chorales.sort(key=len)
    rested = next(chorale for chorale in chorales if (chorale == -1).any())
    corpus = corpus_of([chorales[0], rested])
    rest = int(np.flatnonzero((rested == -1).any(axis=1))[0])
    worst = 0.0
    for name, measure in estimates.MEASURES.items():
        for piece, ordering, frames in ((0, 1, [0, 37]), (1, 4, [rest])):
            rows = rows_of((piece, t, ordering) for t in frames)
            protocol = likelihood.Protocol(measure.order, measure.feed)
            found = score(loaded.variables, loaded.config.model, corpus, rows, protocol)
            expected = reference_nll.row(forward, corpus, piece, ordering, frames, name, seed=0)
            worst = max(worst, np.abs(found - expected).max())
    print(f"largest difference: {worst:.2g} nats")
    assert worst < 1e-5


# --------------------------------------------------------------------------------------------- laws

STEPS, VOICES = 2, 2


def step_of(predict: model.Predict) -> model.PredictStep:
    """A model of pieces of two steps as one of windows of three, the step in question in the middle."""

    def predict_step(roll: jax.Array, context: jax.Array, valid: jax.Array, first: jax.Array) -> jax.Array:
        start = jnp.argmax(valid, axis=1)
        times = start[:, None] + jnp.arange(STEPS)[None]
        row = jnp.arange(len(start))
        inside = [x[row[:, None], times] for x in (roll, context, valid)]
        return predict(*inside)[row, STEPS - 1 - start]

    return predict_step


def every_piece() -> np.ndarray:
    return np.array(list(itertools.product(test_objective.PITCHES, repeat=STEPS * VOICES)), np.int8).reshape(
        -1, STEPS, VOICES
    )


def score_all(order: str, feed: str, number: int, ordering: int) -> np.ndarray:
    """Log-probability of every piece there is, all along the same ordering, by a model that fits no joint law."""
    everything = every_piece()
    corpus = likelihood.Corpus(
        jnp.asarray(everything),
        jnp.full(len(everything), STEPS, jnp.int32),
        jnp.full(len(everything), number, jnp.int32),
    )
    predict_step = step_of(test_objective.inconsistent_predict(0, STEPS * VOICES))
    rows = rows_of((piece, t, ordering) for piece in range(len(everything)) for t in range(STEPS))
    rows = likelihood.Rows(*map(jnp.asarray, rows))
    found = likelihood.score_rows(
        predict_step,
        (STEPS - 1, STEPS - 1),
        corpus,
        rows,
        jnp.int32(list(orderings.ORDERS).index(order)),
        jnp.int32(likelihood.FEEDS.index(feed)),
        jnp.int32(0),
    )
    return np.asarray(found).reshape(-1, STEPS * VOICES)


@pytest.mark.parametrize("order", orderings.ORDERS)
def test_true_notes_given_the_likelihoods_of_all_pieces_add_up_to_one(order):
    members = np.array([score_all(order, "truth", 3, ordering).sum(axis=1) for ordering in range(4)])
    np.testing.assert_allclose(np.exp(members).sum(axis=1), 1, atol=1e-5)
    assert np.ptp(members, axis=0).max() > 0.5  # the orderings differ
    mixture = estimates.log_mean_exp(members)
    np.testing.assert_allclose(np.exp(mixture).sum(), 1, atol=1e-5)


def test_an_ensemble_of_each_frame_is_no_law():
    """The released average, by contrast, does not give all pieces together a probability of one."""
    members = np.array([score_all("random_frames", "truth", 3, n).reshape(-1, STEPS, VOICES) for n in range(6)])
    frames = estimates.log_mean_exp(members.sum(axis=3))
    assert abs(np.exp(frames.sum(axis=1)).sum() - 1) > 0.02


def test_the_first_note_of_an_ordering_is_seen_by_nobody_else(tiny_config, lively, toy_pieces):
    """What a variable costs depends on what comes before it in the ordering, and on nothing after it."""
    piece = toy_pieces.splits["train"].pitches[3][:12]
    changed = piece.copy()
    key = likelihood.ordering_key(0, jnp.int32(0), jnp.int32(0))
    ranks = np.asarray(orderings.random_variables(key, jnp.ones(12, bool), 4))
    late = ranks >= 24
    changed[late] = np.where(changed[late] == 50, 51, 50)
    protocol = likelihood.Protocol("random_variables", "truth")
    rows = rows_of((0, t, 0) for t in range(12))
    before, after = (score(lively, tiny_config.model, corpus_of([array]), rows, protocol) for array in (piece, changed))
    np.testing.assert_allclose(before[~late], after[~late], atol=1e-6)
    assert np.abs(before[late] - after[late]).max() > 0.1


def test_an_untrained_net_knows_nothing(tiny_config, toy_pieces):
    variables = model.init(jax.random.key(0), tiny_config.model)
    split = toy_pieces.splits["valid"]
    corpus = corpus_of([split.pitches[1][:36]])
    whole = [t for t in range(36) if (split.pitches[1][t] != -1).all()]
    for measure in estimates.MEASURES.values():
        protocol = likelihood.Protocol(measure.order, measure.feed)
        found = score(variables, tiny_config.model, corpus, rows_of((0, t, 0) for t in whole), protocol)
        assert -found.sum(axis=1).mean() == pytest.approx(4 * np.log(46), rel=0.01)


def test_rests_cost_nothing(tiny_config, lively):
    piece = np.full((10, 4), 60, np.int16)
    piece[4:, 2] = -1
    found = score(
        lively,
        tiny_config.model,
        corpus_of([piece]),
        rows_of((0, t, 0) for t in range(10)),
        likelihood.Protocol("random_frames", "argmax"),
    )
    np.testing.assert_array_equal(found == 0, piece == -1)


# --------------------------------------------------------------------------------- batches and devices


@pytest.mark.parametrize("feed", likelihood.FEEDS)
def test_numbers_depend_on_neither_batch_nor_devices_nor_company(tiny_config, lively, toy_pieces, feed):
    split = toy_pieces.splits["train"]
    arrays = [split.pitches[n][: split.lengths[n]] for n in range(5)]
    rng = np.random.default_rng(0)
    rows = rows_of((piece, int(rng.integers(len(arrays[piece]))), n % 3) for n, piece in enumerate([0, 1, 2, 3, 4] * 5))
    protocol = likelihood.Protocol("random_frames", feed)
    run = functools.partial(score, lively, tiny_config.model, protocol=protocol)
    whole = run(corpus_of(arrays), rows)
    for batch_size, num_devices in ((1, 1), (3, 8), (32, 1)):
        other = run(corpus_of(arrays), rows, batch_size=batch_size, num_devices=num_devices)
        np.testing.assert_allclose(whole, other, atol=2e-6)
    own = np.flatnonzero(rows.piece == 3)
    alone = run(corpus_of([arrays[3]], [3]), likelihood.Rows(np.zeros(len(own), np.int32), *(c[own] for c in rows[1:])))
    np.testing.assert_allclose(whole[own], alone, atol=2e-6)


def test_all_measures_of_all_pieces_are_one_program(tiny_config, tiny_variables, toy_pieces):
    split = toy_pieces.splits["train"]
    corpus = corpus_of([split.pitches[n][: split.lengths[n]] for n in range(5)])
    scorer = likelihood.prepare(
        likelihood.Scorer(tiny_variables, likelihood.net_of(tiny_config.model), corpus, 0, 3, devices.make_mesh(1))
    )
    likelihood._compiled.cache_clear()
    for measure in estimates.MEASURES.values():
        rows = rows_of((piece, t, 0) for piece in range(5) for t in (0, 5))
        list(likelihood.score(scorer, rows, likelihood.Protocol(measure.order, measure.feed)))
    assert likelihood._compiled(scorer.mesh, scorer.net)._cache_size() == 1  # type: ignore[attr-defined]


def test_a_draw_follows_its_lot():
    log_probs = jnp.log(jnp.asarray([[0.2, 0.3, 0.5] + [1e-30] * 43] * 5))
    lots = jnp.asarray([0.0, 0.199, 0.2, 0.5, 0.9999999])
    assert likelihood._draw(log_probs, lots).tolist() == [36, 36, 37, 38, 38]


def test_lots_are_uniform_and_of_their_own_for_each_note_ordering_and_piece():
    keys = [
        likelihood.ordering_key(seed, jnp.int32(n), jnp.int32(o))
        for seed, n, o in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    lots = np.array([[likelihood.draw_lots(key, jnp.int32(frame), 4) for frame in range(100)] for key in keys])
    assert len(np.unique(lots)) == lots.size == 1600
    assert abs(lots.mean() - 0.5) < 0.03 and abs(lots.std() - 12**-0.5) < 0.02
    assert lots.min() >= 0 and lots.max() < 1


@pytest.mark.parametrize("changed", ["seed", "number", "ordering"])
def test_an_ordering_follows_from_seed_piece_and_number(lively, tiny_config, toy_pieces, changed):
    piece = toy_pieces.splits["train"].pitches[1][:24]
    protocol = likelihood.Protocol("random_variables", "truth")

    def run(seed: int = 0, number: int = 3, ordering: int = 1) -> np.ndarray:
        rows = rows_of((0, t, ordering) for t in range(24))
        return score(lively, tiny_config.model, corpus_of([piece], [number]), rows, protocol, seed=seed)

    np.testing.assert_array_equal(run(), run())
    assert np.abs(run() - run(**{changed: 2})).max() > 0.1

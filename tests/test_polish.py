"""Redraws guided by a critic: what is preferred stays, what is given never moves, chains do not see each other."""

import dataclasses
from itertools import permutations

import jax
import numpy as np
import pytest

from coconet_jax import (
    checkpoint,
    config,
    errors,
    generate,
    outputs,
    pianoroll,
    polish,
    sample,
    samples,
    score,
    state,
    steering,
    tasks,
    weights,
)
from coconet_jax.judge import critic

SMALL = polish.Passages(steps=4, candidates=3, calls=2, enough=np.inf)


def prefers_high_sopranos(pitches):
    return pitches[:, :, 0].mean(axis=1).astype(float), np.zeros(len(pitches), bool)


@pytest.fixture(scope="module")
def make_plan(tiny_config, tiny_variables):
    def make(request, **fields):
        settings = config.Sample(num_steps=2)
        return generate.Plan(tiny_variables, tiny_config.model, request, settings, micro_batch=2, **fields)

    return make


def test_every_sweep_raises_what_the_judge_prefers_and_only_that_is_kept(make_plan):
    plan = make_plan(tasks.compose(16), seed=3)
    ids = np.arange(3)
    raw = generate.samples(plan, ids).pitches
    shares: list[float] = []
    once = polish.polish(prefers_high_sopranos, plan, raw, ids, 1, passages=SMALL, report=shares.append)
    twice = polish.polish(prefers_high_sopranos, plan, raw, ids, 2, passages=SMALL)
    scores = [prefers_high_sopranos(pitches)[0] for pitches in (raw, once, twice)]
    assert (scores[1] > scores[0] + 1).all() and (scores[2] > scores[1]).all()
    assert len(shares) == polish.num_redraws(plan.request.free, 1, SMALL) == 4 and sum(shares) == pytest.approx(1)
    assert polish.num_calls(plan.request.free, 2, SMALL) == (4 + 5) * 6
    equal = lambda pitches: (np.zeros(len(pitches)), np.zeros(len(pitches), bool))  # noqa: E731
    np.testing.assert_array_equal(polish.polish(equal, plan, raw, ids, 1, passages=SMALL), raw)


def test_what_is_real_enough_is_left_alone(make_plan):
    plan, ids = make_plan(tasks.compose(16), seed=3), np.arange(8)
    raw = generate.samples(plan, ids).pitches
    enough = float(np.median(prefers_high_sopranos(raw)[0]))
    left = prefers_high_sopranos(raw)[0] >= enough
    made = polish.polish(prefers_high_sopranos, plan, raw, ids, 2, passages=SMALL._replace(enough=enough))
    assert 0 < left.sum() < 8
    np.testing.assert_array_equal(made[left], raw[left])
    assert (made[~left] != raw[~left]).any(axis=(1, 2)).all()
    # What the others become depends on none of those that are left.
    alone = polish.polish(
        prefers_high_sopranos, plan, raw[~left], ids[~left], 2, passages=SMALL._replace(enough=enough)
    )
    np.testing.assert_array_equal(alone, made[~left])

    # A quotation is never left, however real.
    def quoting(pitches):
        return prefers_high_sopranos(pitches)[0], (pitches[:, None] == raw).all(axis=(2, 3)).any(axis=1)

    again = polish.polish(quoting, plan, raw, ids, 1, passages=SMALL._replace(enough=enough))
    assert (again != raw).any(axis=(1, 2)).all()


@pytest.mark.parametrize(("on_cpu", "dtype"), [(False, "float32"), (True, "bfloat16")])
def test_where_it_may_show_the_shape_of_its_batches_follows_from_the_plan_alone(make_plan, monkeypatch, on_cpu, dtype):
    monkeypatch.setattr(polish.devices, "on_cpu", lambda: on_cpu)
    monkeypatch.setattr(polish.devices, "memory_bytes", lambda: 1)  # which would leave room for one chain
    windows = [slice(0, 40)]

    def shape(steps: int, chains: int, most: int = 4) -> int:
        base = make_plan(tasks.compose(steps))
        base = base._replace(micro_batch=chains, model=dataclasses.replace(base.model, dtype=dtype))
        drawing = polish._drawing_plan(base, windows, most, polish.PASSAGES)
        # All devices have something to do that has been given so many chains.
        assert drawing.num_devices == min(jax.local_device_count(), -(-rows(chains, most) // drawing.micro_batch))
        return drawing.micro_batch

    def rows(chains: int, most: int) -> int:
        return chains * most * polish.PASSAGES.candidates * jax.local_device_count()

    assert shape(64, 512) == 512 * 64 // 40  # no more music at once than in the batches that the chains came from
    assert shape(64, 32) == 64 and shape(64, 2) == 2 * 4 * 4  # few candidates are drawn at once
    assert shape(8192, 8, 100) == 8 * 1024 // 40  # of which a window and its surroundings are in the network at a time


def test_what_is_barred_is_not_taken(make_plan):
    plan = make_plan(tasks.compose(8))
    raw = generate.samples(plan, np.arange(2)).pitches
    other = lambda pitches: (pitches[:, None] != raw).any(axis=(2, 3)).all(axis=1)  # noqa: E731
    barred = lambda pitches: (pitches[:, :, 0].mean(axis=1), other(pitches))  # noqa: E731
    np.testing.assert_array_equal(polish.polish(barred, plan, raw, np.arange(2), 1, passages=SMALL), raw)


def test_given_notes_and_rests_stay(make_plan):
    melody = np.repeat([67, 72, -1, 74, 71, 72], [4, 4, 2, 4, 2, 8])[:, None].astype(np.int16)
    request = tasks.harmonize(score.from_pitches(melody), rests="together")
    plan, ids = make_plan(request), np.arange(2)
    raw = generate.samples(plan, ids).pitches
    low = lambda pitches: (-pitches[:, :, 1:].mean(axis=(1, 2)), np.zeros(len(pitches), bool))  # noqa: E731
    made = polish.polish(low, plan, raw, ids, 2, passages=SMALL)
    np.testing.assert_array_equal(made[:, ~request.free], raw[:, ~request.free])
    some = tasks.inpaint(score.from_pitches(made[0]), 8, 12)
    assert polish.num_redraws(some.free, 2, SMALL) == 1 + 2  # passages at 8, and at 6 and 10
    assert (made[:, request.free] != raw[:, request.free]).mean() > 0.3
    assert (made[:, request.free] >= pianoroll.MIN_PITCH).all()


def test_a_chain_depends_on_its_number_and_notes_alone(make_plan):
    request = tasks.compose(80)  # longer than a window
    plan, ids = make_plan(request, seed=8), np.array([4, 1, 7])
    raw = generate.samples(plan, ids).pitches
    made = polish.polish(prefers_high_sopranos, plan, raw, ids, 1, passages=SMALL)
    assert (made != raw).reshape(3, 10, -1).any(axis=2).mean() > 0.8  # everywhere
    alone = polish.polish(prefers_high_sopranos, plan, raw[1:2], ids[1:2], 1, passages=SMALL)
    np.testing.assert_array_equal(alone[0], made[1])
    others = polish.polish(prefers_high_sopranos, plan._replace(seed=9), raw, ids, 1, passages=SMALL)
    assert (others != made).any()


def test_passages_side_by_side_are_not_in_each_others_windows():
    for passages, steps in (
        (polish.PASSAGES, 64),
        (polish.PASSAGES, 200),
        (polish.Passages(steps=12), 150),
        (SMALL, 20),
    ):
        free = np.ones((steps, 4), bool)
        free[24:40] = False
        for sweep in (0, 1):
            rounds = polish._rounds(free, sweep, passages, side_by_side=True)
            assert sorted(sum(rounds, [])) == polish._starts(free, sweep, passages)
            for each in rounds:
                seen = [polish._window(start, passages, polish.WINDOW_STEPS, steps) for start in each]
                for one, other in permutations(range(len(each)), 2):
                    first, last = max(each[other], 0), min(each[other] + passages.steps, steps)
                    assert last <= seen[one].start or seen[one].stop <= first
            alone = polish._rounds(free, sweep, passages, side_by_side=False)
            assert sum(alone, []) == polish._starts(free, sweep, passages) and max(map(len, alone)) == 1
    assert max(map(len, polish._rounds(np.ones((200, 4), bool), 0, polish.PASSAGES, side_by_side=True))) == 3


def test_a_window_is_around_its_passage_and_inside_the_piece():
    for start in (-4, 0, 8, 96, 192, 196):
        window = polish._window(start, polish.PASSAGES, polish.window_steps(), 200)
        assert 0 <= window.start <= max(start, 0) and min(start + 8, 200) <= window.stop <= 200
        assert window.stop - window.start == polish.window_steps() == 40
    assert polish._window(96, polish.PASSAGES, 40, 200) == slice(80, 120)
    assert polish._window(8, polish.PASSAGES, 64, 20) == slice(0, 20)


def test_every_passage_of_a_sweep_keeps_what_won(make_plan):
    for steps in (64, 100):
        plan = make_plan(tasks.compose(steps))
        raw = np.full((1, steps, 4), 50, np.int16)
        anything_new = lambda pitches: ((pitches != 50).mean(axis=(1, 2)), np.zeros(len(pitches), bool))  # noqa: E731
        passages = polish.Passages(candidates=2, calls=2, enough=np.inf)
        starts = polish._starts(plan.request.free, 1, passages)
        for each in polish._rounds(plan.request.free, 1, passages, side_by_side=True):
            free, ends = np.ones(raw.shape, bool), np.ones((1, 2), bool)
            polish._redraw(anything_new, plan, raw, free, ends, np.zeros(1, int), np.arange(1), each, 2, passages)
        for start in starts:
            assert (raw[0, max(start, 0) : start + 8] != 50).mean() > 0.8


def test_passages_at_an_end_of_the_piece_are_drawn_as_such(make_plan, monkeypatch):
    told: list[np.ndarray] = []
    draw = generate.samples

    def listen(plan: generate.Plan, ids: np.ndarray) -> generate.Made:
        if len(plan.request.free) == polish.window_steps(SMALL):
            told.append(np.array(tasks.start(plan.request, plan.seed, ids).ends))
        return draw(plan, ids)

    monkeypatch.setattr(generate, "samples", listen)
    for ends in ((True, True), (False, True), (False, False)):
        plan = make_plan(tasks.compose(160)._replace(ends=ends), knows_ends=True)
        told.clear()
        polish.polish(prefers_high_sopranos, plan, np.full((2, 160, 4), 50, np.int16), np.arange(2), 1, passages=SMALL)
        found = np.concatenate(told)
        assert len(found) == 2 * 40 * SMALL.candidates
        # Of 40 passages of 4 steps the first five, and the last five, are drawn in a window that ends with the piece.
        np.testing.assert_array_equal(found.sum(axis=0), np.array(ends) * 2 * 5 * SMALL.candidates)


def test_passages_are_told_where_in_the_piece_their_windows_begin(make_plan, monkeypatch):
    """Which is written in the notes around them: the soprano counts steps, the alto every 32 of them."""
    raw = np.full((3, 160, 4), 50, np.int16)
    raw[:, :, 0], raw[:, :, 1] = 40 + np.arange(160) % 32, 40 + np.arange(160) // 32
    draw, seen = generate.samples, []

    def listen(plan: generate.Plan, ids: np.ndarray) -> generate.Made:
        begun = tasks.start(plan.request, plan.seed, ids)
        for pitches, free, first in zip(begun.pitches, begun.free, np.array(begun.first), strict=True):
            step = int(np.flatnonzero(~free.any(axis=1))[0])
            seen.append((int(pitches[step, 0] - 40 + 32 * (pitches[step, 1] - 40) - step), int(first)))
        return draw(plan, ids)

    monkeypatch.setattr(generate, "samples", listen)
    indifferent = lambda pitches: (np.zeros(len(pitches)), np.zeros(len(pitches), bool))  # noqa: E731
    for pickup in (0, 3):
        request = tasks.compose(160)
        request = request._replace(given=dataclasses.replace(request.given, pickup_steps=pickup))
        seen.clear()
        polish.polish(indifferent, make_plan(request), raw, np.arange(3), 2, passages=SMALL)
        assert {first - begin for begin, first in seen} == {-pickup}
        assert len({begin for begin, _ in seen}) > 30


def test_a_chain_of_a_long_piece_is_its_own_however_real_the_others_are(make_plan):
    melody = np.repeat([[67], [72], [71], [74], [72]], 20, axis=0).astype(np.int16)
    request = tasks.harmonize(score.from_pitches(melody))
    plan, ids = make_plan(request, seed=5), np.array([4, 1, 7, 0])
    raw = generate.samples(plan, ids).pitches
    high = lambda pitches: (pitches[:, :, 1].mean(axis=1).astype(float), np.zeros(len(pitches), bool))  # noqa: E731
    passages = SMALL._replace(enough=float(np.median(high(raw)[0])) + 1)
    made = polish.polish(high, plan, raw, ids, 2, passages=passages)
    np.testing.assert_array_equal(made[:, ~request.free], raw[:, ~request.free])
    assert 0.1 < (made != raw)[:, request.free].mean() < 0.7
    for row in range(len(ids)):
        alone = polish.polish(high, plan, raw[row : row + 1], ids[row : row + 1], 2, passages=passages)
        np.testing.assert_array_equal(alone[0], made[row])


def test_answers_to_one_request_stay_different(make_plan):
    some = tasks.inpaint(score.from_pitches(np.repeat([[67, 62, 55, 43]], 8, axis=0)), 3, 4)
    alto = some._replace(free=some.free & (np.arange(4) == 1))
    plan, ids = make_plan(alto, prior=steering.neutral(8)), np.arange(6)  # with 46 answers
    raw = generate.samples(plan, ids).pitches
    # All candidates of one note: the highest wins, so that chains agree.
    high = lambda pitches: (pitches[:, 3, 1] - 200.0, np.zeros(len(pitches), bool))  # noqa: E731
    assert len(generate.repeated(polish.polish(high, plan, raw, ids, 2)))
    made = polish.distinct(high, plan, raw, ids, 2)
    assert not len(generate.repeated(made))
    np.testing.assert_array_equal(made[:, ~plan.request.free], raw[:, ~plan.request.free])


def test_passages_are_as_careful_as_their_chain_and_no_temperature_is_too_low(make_plan, monkeypatch):
    drawing = []
    samples_of = generate.samples

    def spy(plan, chains, **more):
        drawing.append((plan, chains))
        return samples_of(plan, chains, **more)

    plan = make_plan(tasks.compose(16))
    plan = plan._replace(settings=dataclasses.replace(plan.settings, greedy=(0.0, 1.0), temperature=1e-4))
    pitches = generate.samples(plan, np.arange(3)).pitches
    monkeypatch.setattr(generate, "samples", spy)
    polish.polish(lambda found: (np.full(len(found), -9.0), np.zeros(len(found), bool)), plan, pitches, np.arange(3), 1)
    assert drawing and all(inner.settings.greedy == (0.0, 1.0) for inner, _ in drawing)
    assert all(set((chains // inner.chains_each).tolist()) <= {0, 1, 2} for inner, chains in drawing)
    assert {int(n) for inner, chains in drawing for n in chains // inner.chains_each} == {0, 1, 2}


def test_wishes_are_heeded_where_passages_lie(make_plan):
    steps = 72
    wish = steering.neutral(steps)
    wish.bias[40:, pianoroll.NUM_PITCHES // 2 :] = -50.0  # no high notes in the second part
    plan = make_plan(tasks.compose(steps), prior=wish)
    raw = np.full((1, steps, 4), 50, np.int16)
    anything_new = lambda pitches: ((pitches != 50).mean(axis=(1, 2)), np.zeros(len(pitches), bool))  # noqa: E731
    made = polish.polish(anything_new, plan, raw, np.arange(1), 1, passages=SMALL)
    middle = pianoroll.MIN_PITCH + pianoroll.NUM_PITCHES // 2
    assert made[:, 40:].max() < middle <= made[:, :40].max()


def test_polished_passages_keep_to_the_ranges_of_the_whole_request(make_plan):
    """Given notes outside of a passage's own window widen a voice's range too."""
    given = np.full((72, 4), -1, np.int16)
    given[0, 1] = 50
    request = tasks.complete(score.from_pitches(given), rests="fill")
    lowest = lambda pitches: (-pitches[:, :, 1].mean(axis=1).astype(float), np.zeros(len(pitches), bool))  # noqa: E731
    many = polish.Passages(steps=4, candidates=24, calls=2, enough=np.inf)
    made = {}
    for name, each in (("given", request), ("nothing", tasks.compose(72))):
        plan = make_plan(each)
        made[name] = polish.polish(lowest, plan, np.full((1, 72, 4), 60, np.int16), np.arange(1), 1, passages=many)
    assert made["nothing"][..., 1].min() >= 52 and made["given"][:, 60:, 1].min() in (50, 51)


def test_by_default_the_packaged_critic_chooses(tiny_config, tiny_variables):
    loaded = weights.Loaded(tiny_variables, tiny_config, 1, "0" * 64, {})
    settings = config.Sample(num_steps=2)
    raw, made = (polish.complete(loaded, tasks.compose(16), 2, settings, sweeps=sweeps) for sweeps in (0, 1))
    judge = polish.judge_with(critic.load())
    assert (judge(made.pitches)[0] > judge(raw.pitches)[0]).all()
    wish = steering.key(16, "C major", 50.0)
    in_key = polish.complete(loaded, tasks.compose(16), 2, settings, sweeps=1, prior=wish).pitches
    assert np.isin(in_key % 12, [0, 2, 4, 5, 7, 9, 11]).all()
    eighths = dataclasses.replace(tiny_config, data=dataclasses.replace(tiny_config.data, steps_per_quarter=2))
    with pytest.raises(errors.InputError, match="this model writes 2 steps a quarter, and the critic knows 4"):
        polish.complete(loaded._replace(config=eighths), tasks.compose(16), 2, settings)


@pytest.fixture(scope="module")
def run(tiny_config, tiny_variables, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    manager = checkpoint.open_run(folder)
    checkpoint.save(manager, state.begin(tiny_variables, tiny_config.train), tiny_variables, tiny_config, "data", 2.0)
    manager.close()
    return folder


def test_the_command_polishes_unless_told_otherwise(run, tmp_path, capsys):
    words = [f"--checkpoint={run}", "--steps=16", "--num_steps=2", "--formats=npz", "--seed=3"]
    for name, more in (
        ("raw", ["--polish=0", "--num_samples=3"]),
        ("whole", ["--num_samples=3"]),
        ("chunks", ["--num_samples=3", "--chunk_size=2", "--micro_batch=1"]),
        ("grown", ["--num_samples=2"]),
        ("grown", ["--num_samples=3"]),
    ):
        sample.main([*words, *more, f"--out={tmp_path}/{name}"])
        told = "then up to 160 of passages" in capsys.readouterr().out
        assert told == (name != "raw")
    raw, whole, chunks, grown = (
        samples.load_samples(tmp_path / name).pitches for name in ("raw", "whole", "chunks", "grown")
    )
    np.testing.assert_array_equal(whole, chunks)
    np.testing.assert_array_equal(whole, grown)
    prefers = polish.judge_with(critic.load())
    assert (prefers(whole)[0] > prefers(raw)[0]).all()
    manifest = samples.read_manifest(tmp_path / "whole")
    assert manifest and manifest["settings"]["polish"] == polish.USUAL


def test_a_run_goes_on_as_it_was_begun_and_large_ones_are_left_as_they_are(run, tmp_path, capsys, monkeypatch):
    words = [f"--checkpoint={run}", "--steps=8", "--num_steps=1", "--formats=npz", f"--out={tmp_path}/out"]
    sample.main([*words, "--num_samples=1", "--polish=2"])
    sample.main([*words, "--num_samples=2"])
    assert "then up to 96 of passages" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        sample.main([*words, "--num_samples=2", "--polish=0"])
    assert "polish (there 2, here none)" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(polish, "PASSAGES", polish.PASSAGES._replace(enough=1.0))
        with pytest.raises(SystemExit, match="2"):
            sample.main([*words, "--num_samples=2"])
    assert "passages (there " in capsys.readouterr().err
    sample.main([*words[:-1], f"--out={tmp_path}/many", f"--num_samples={outputs.MAX_SCORES + 1}"])
    assert "passages" not in capsys.readouterr().out
    sample.main([*words[:-1], f"--out={tmp_path}/stages", "--num_samples=1", "--trace=2", "--polish=2"])
    with np.load(tmp_path / "stages" / "trace.npz") as file:
        np.testing.assert_array_equal(file["pitches"][-1], samples.load_samples(tmp_path / "stages").pitches)

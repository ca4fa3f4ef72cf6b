"""Likelihood under the LSTM: whole pieces of any length, and the command."""

import json
from typing import Any

import numpy as np
import pytest
import test_lstm

from coconet_jax import checkpoint, lstm, pieces, sequence_evaluate
from coconet_jax import state as state_lib

CONFIG = test_lstm.tiny(num_layers=1)


@pytest.fixture(scope="module")
def variables() -> Any:
    return test_lstm.variables_of(CONFIG)


def test_each_piece_has_its_own_likelihood(variables, toy_pieces):
    split = toy_pieces.splits["train"]
    found = sequence_evaluate.score_pieces(variables, CONFIG, split, batch_size=2)
    assert [piece.shape for piece in found] == [(1, n, 1) for n in split.lengths]
    for piece, pitches, length in zip(found, split.pitches, split.lengths, strict=True):
        alone = test_lstm.total_log_probs(variables, CONFIG, pitches[None, :length])
        assert piece.sum() == pytest.approx(alone[0], rel=1e-5)


def test_a_token_counts_where_it_stands(variables):
    pitches = np.repeat(np.array([[60, 55, 50, 45], [62, 55, 50, 43]], np.int8), (3, 15), axis=0)
    (piece,) = sequence_evaluate.score_pieces(variables, CONFIG, pieces.from_arrays([pitches], ["one"]))
    assert np.flatnonzero(piece[0, :, 0]).tolist() == [0, 3, 15]  # chord, chord, the wait of 3 after that of 12


def test_the_command_prints_what_the_pieces_add_up_to(variables, toy_path, toy_pieces, tmp_path, capsys):
    config = lstm.read_config({"data": {"path": toy_path}, "model": {**vars(CONFIG)}})
    manager = checkpoint.open_run(tmp_path)
    checkpoint.save(manager, state_lib.begin(variables, config.train), variables, config, "data", 1.0, kind=lstm.KIND)
    manager.close()
    found = sequence_evaluate.score_pieces(variables, CONFIG, toy_pieces.splits["valid"])
    mean = -sum(piece.sum() for piece in found) / 56
    sequence_evaluate.main([f"--checkpoint={tmp_path}", f"--json={tmp_path / 'nll.json'}"])
    assert f"{mean:.4f} ± " in capsys.readouterr().out
    report = json.loads((tmp_path / "nll.json").read_text())["measures"]["all pieces"]
    assert report["mean"] == pytest.approx(mean, rel=1e-6) and (report["n_pieces"], report["n_frames"]) == (2, 56)
    single = pieces.PieceSet(
        toy_pieces.splits | {"valid": pieces.from_arrays([toy_pieces.splits["valid"].pitches[0]], ["one"])}, 4, "one"
    )
    pieces.write_npz(tmp_path / "one.npz", single)
    sequence_evaluate.main(
        [f"--checkpoint={tmp_path}", f"--data={tmp_path / 'one.npz'}", f"--json={tmp_path / 'nll.json'}"]
    )
    assert "±" not in capsys.readouterr().out  # of a single piece no error is known
    assert json.loads((tmp_path / "nll.json").read_text())["measures"]["all pieces"]["sem_pieces"] is None
    with pytest.raises(SystemExit, match="2"):
        sequence_evaluate.main([f"--data={toy_path}"])
    assert "--checkpoint is missing" in capsys.readouterr().err

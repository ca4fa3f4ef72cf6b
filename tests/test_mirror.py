"""Checkpoints at a URL: half of one is never seen, whatever the moment of an accident."""

import pytest

from coconet_jax import mirror, storage

NAMES = ["header/metadata", "metrics/metrics", "top"]


@pytest.fixture
def folder(tmp_path):
    for step in (3, 12):
        for name in NAMES:
            (tmp_path / str(step) / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / str(step) / name).write_text(f"{name} of {step}")
    return tmp_path


def test_steps_come_and_go(store, folder, tmp_path):
    assert mirror.steps(store) == []
    for step in (12, 3):
        mirror.publish(folder, step, store)
    assert mirror.steps(store) == [3, 12] and storage.tree(store / "3") == NAMES
    mirror.fetch(store, 3, ("metrics",), tmp_path / "copy")
    assert {p.name for p in (tmp_path / "copy" / "3").iterdir()} == {"metrics", "top"}
    mirror.delete(store, 3)
    assert mirror.steps(store) == [12] and not storage.tree(store / "3")


@pytest.mark.parametrize("when", ["upload", "unlink", "remove_tree"])
def test_what_was_cut_short_is_not_seen_and_goes(store, folder, monkeypatch, when):
    mirror.publish(folder, 3, store)

    def stop(*given):
        if when == "upload":  # half-way
            upload(given[0], given[1][:1], given[2])
        raise KeyboardInterrupt

    upload = storage.upload
    monkeypatch.setattr(storage.Url if when == "unlink" else storage, when, stop)
    with pytest.raises(KeyboardInterrupt):
        mirror.delete(store, 3) if when == "remove_tree" else mirror.publish(folder, 12, store)
    monkeypatch.undo()
    left = {"upload": [3], "unlink": [3], "remove_tree": []}[when]
    assert mirror.steps(store) == left and len(storage.tree(store)) > 3 * len(left)
    mirror.clean_up(store)
    assert mirror.steps(store) == left and len(storage.tree(store)) == 3 * len(left)

"""What generators were evaluated at elsewhere, read back from the JSON of `evaluate` and `sequence_evaluate`."""

from collections.abc import Sequence
import json

from coconet_jax import errors, pieces, storage
from coconet_jax.judge import rates


def read(paths: Sequence[str]) -> tuple[dict[str, dict[str, rates.Measure]], list[str]]:
    """NLL in nats per frame on real music, by the sha256 of the weights, and a line on the music of each report.

    Of each generator what was measured of "chain_rule" (in order of time) and "framewise" (as released); errors are
    those over pieces.

    Raises:
      InputError: a file is no such report, measures neither, is of other music than a split of chorales, or of other
        music than a report before it.
    """
    found: dict[str, dict[str, rates.Measure]] = {}
    first = ("", "")
    notes = []
    for path in paths:
        try:
            report = json.loads(storage.place(path).read_bytes())
            measures, known = report["measures"], {}
            for name, values, factor in (
                ("framewise", measures.get("framewise_released", {}).get("unit_ensemble"), 1),
                ("chain_rule", measures.get("notewise_chronological", {}).get("one_ordering"), 4),
                ("chain_rule", measures.get("all pieces"), 1),  # of coconet_jax.sequence_evaluate
            ):
                if values is not None:
                    error = values.get("sem_grouped", values["sem_pieces"]) or float("nan")
                    known[name] = rates.Measure(factor * values["mean"], factor * error)
            if not known:
                raise ValueError("it has neither framewise_released nor notewise_chronological")
            music = report["data"]
            if music.split(" ")[0] not in pieces.SPLITS:
                raise ValueError(f"it is of {music}, not of a split of chorales")
            first = first if first[0] else (path, music)
            sha256, frames = report["sha256"], report.get("n_frames", measures.get("all pieces", {}).get("n_frames"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise errors.InputError(
                f"--evaluations: {path} is no report of coconet_jax.evaluate or .sequence_evaluate ({error!r}); give "
                "what their --json wrote"
            ) from None
        if music != first[1]:
            raise errors.InputError(
                f"--evaluations: {path} is of {music}, {first[0]} of {first[1]}, and the two do not compare; give "
                "reports of one set of chorales"
            )
        found[sha256] = found.get(sha256, {}) | known
        notes.append(f"NLL of weights {sha256[:8]}: {frames} frames of {music}")
    return found, notes

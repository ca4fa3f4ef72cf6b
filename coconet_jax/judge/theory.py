"""Every theory measure of a piece by name, their means over a set, and tables of sets. numpy, no model.

The measures are defined where they are computed: `voice_leading` (how voices go together), `melody` (each voice),
`harmony`, `tonality`, `rhythm` and `copies`; `MEASURES` has a line on each. Pitches, lengths and phases are as in
`beats`. A measure that a piece does not have, such as the resolution of sevenths where there are none, is nan there.

Where the phases are not given, shares of triads are those at the best of a beat's phases, and the other measures that
need the beat take the one phase of each piece at which most notes change (`beats.estimate_phases`); so for Bach and for
samples alike.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from jaxtyping import Float, Integer
import numpy as np

from coconet_jax import errors, pianoroll, pieces
from coconet_jax.judge import beats, copies, harmony, melody, rates, rhythm, tonality, voice_leading

# Names under which samplers are compared.
count_parallel_fifths = voice_leading.count_parallel_fifths
count_parallel_octaves = voice_leading.count_parallel_octaves
triad_share = harmony.triad_share
repeated_chord_share = rhythm.repeated_chord_share


class Definition(NamedTuple):
    """What a measure is: its unit ("share" is 0 to 1 and printed in percent) and a line that defines it."""

    unit: str
    text: str


SHARE: Final = "share"
RATE: Final = "per 100 beats"
POOLED: Final = ("parallel_fifths", "parallel_octaves", "direct_fifths", "direct_octaves")  # rare in good music


MEASURES: Final[dict[str, Definition]] = {
    "parallel_fifths": Definition(RATE, "pairs of voices that move in parallel fifths, all six pairs"),
    "parallel_octaves": Definition(RATE, "pairs of voices that move in parallel octaves or unisons, all six pairs"),
    "direct_fifths": Definition(RATE, "soprano and bass reach a fifth in similar motion, the soprano by leap"),
    "direct_octaves": Definition(RATE, "soprano and bass reach an octave in similar motion, the soprano by leap"),
    "crossing": Definition(SHARE, "steps at which a voice is below the next lower one"),
    "wide_spacing": Definition(SHARE, "steps with more than an octave between soprano and alto or alto and tenor"),
    "out_of_range": Definition(SHARE, "sounding time outside the voices' ranges in the training chorales"),
    "range": Definition("semitones", "highest less lowest pitch of a voice, mean of the voices"),
    "outer_distance": Definition("semitones", "soprano less bass, mean over steps"),
    **{f"steps_{v}": Definition(SHARE, f"moves of the {v} by 1 or 2 semitones") for v in pianoroll.VOICES},
    **{f"leaps_{v}": Definition(SHARE, f"moves of the {v} by 5 semitones or more") for v in pianoroll.VOICES},
    "large_leaps": Definition(SHARE, "moves of 9 semitones or more but the octave, all voices"),
    "dissonant_leaps": Definition(SHARE, "moves by a tritone, seventh or ninth, all voices"),
    "answered_leaps": Definition(SHARE, "leaps of 5 semitones or more whose next move is a step back"),
    "falling_steps": Definition(SHARE, "steps that fall, all voices"),
    "rising_leaps": Definition(SHARE, "leaps of 5 semitones or more that rise, all voices"),
    "triads": Definition(SHARE, "beats that are complete triads"),
    "triads_or_sevenths": Definition(SHARE, "beats that are triads or sevenths, with or without the fifth"),
    "dissonances_by_leap": Definition(RATE, "voices that leap into a second, seventh or ninth which is no chord's"),
    "suspensions": Definition(RATE, "voices held into a second, seventh or ninth on a beat that then fall by a step"),
    "suspensions_resolved": Definition(SHARE, "voices held into such a dissonance whose next move is a step down"),
    "falling_fifths": Definition(SHARE, "moves of the root by a fifth from beat to beat that fall"),
    "dominants": Definition(RATE, "V-I from a beat to the next, I in root position, of any key"),
    "leading_tones": Definition(SHARE, "thirds of V in V-I that rise by a semitone"),
    "sevenths": Definition(SHARE, "sevenths of V7 in V7-I that fall by a step"),
    "stops": Definition(RATE, "chords of four voices that stay for 2 beats or more"),
    "stops_on_triads": Definition(SHARE, "stops whose chord is a complete triad"),
    "stops_by_dominant": Definition(SHARE, "stops reached by V-I from the chord one beat before"),
    "repeated_chords": Definition(SHARE, "beats whose four pitches are those of the beat before"),
    "longest_frozen": Definition("beats", "longest stretch without a change in any voice"),
    "frozen": Definition(SHARE, "steps in stretches of 4 beats or more without a change in any voice"),
    "key_clarity": Definition("correlation", "of pitch classes with the best of 24 key profiles"),
    "in_scale": Definition(SHARE, "sounding time in the best of 24 major and harmonic minor scales"),
    "pitch_class_entropy_nats": Definition("nats", "entropy of pitch classes by sounding time"),
    "onsets": Definition("per beat", "changes of pitch of all four voices"),
    "onsets_on_beat": Definition(SHARE, "onsets on a beat"),
    "onsets_off_eighths": Definition(SHARE, "onsets neither on a beat nor halfway between two"),
    "syncopations": Definition(RATE, "notes begun off the beat that last into the next beat"),
    "sixteenths": Definition(SHARE, "notes that last a sixteenth, all voices; first and last notes left out"),
    "eighths": Definition(SHARE, "notes that last an eighth"),
    "quarters": Definition(SHARE, "notes that last a quarter"),
    "halves": Definition(SHARE, "notes that last a half"),
}
# Only where the training set is given.
COPY_MEASURES: Final[dict[str, Definition]] = {
    "copied_run": Definition("steps", "longest run of all four voices found in the training set, in any transposition"),
    "copied_run_soprano": Definition("steps", "longest run of the soprano found in the training set"),
}


def measure_pieces(
    pitches: Integer[np.ndarray, "n t 4"],
    steps_per_quarter: int = 4,
    lengths: Integer[np.ndarray, " n"] | None = None,
    phases: Integer[np.ndarray, " n"] | None = None,
) -> dict[str, Float[np.ndarray, " n"]]:
    """Every measure of every piece, in the order of MEASURES; nan where a piece does not have it."""
    scores = beats.prepare(pitches, steps_per_quarter, lengths, phases)
    pitches, num_beats = scores.pitches, beats.num_beats(scores)
    grid = (steps_per_quarter, lengths, phases)
    steps, leaps = melody.step_shares(scores), melody.leap_shares(scores)
    note_lengths = rhythm.note_length_shares(scores)
    events = {
        "parallel_fifths": voice_leading.count_parallel_fifths(pitches).sum(1),
        "parallel_octaves": voice_leading.count_parallel_octaves(pitches).sum(1),
        "direct_fifths": voice_leading.count_direct_fifths(pitches).sum(1),
        "direct_octaves": voice_leading.count_direct_octaves(pitches).sum(1),
        "dissonances_by_leap": harmony.count_dissonances_by_leap(pitches).sum(1),
        "suspensions": harmony.count_suspensions(scores),
        "syncopations": rhythm.count_syncopations(scores),
        "dominants": harmony.count_cadences(scores),
        "stops": rhythm.mark_stops(scores).sum(1),
    }
    found = {name: 100.0 * count / num_beats for name, count in events.items()} | {
        "crossing": voice_leading.crossing_share(scores),
        "wide_spacing": voice_leading.wide_spacing_share(scores),
        "out_of_range": voice_leading.out_of_range_share(scores),
        "range": voice_leading.range_semitones(scores),
        "outer_distance": voice_leading.outer_distance_semitones(scores),
        **{f"steps_{voice}": steps[:, number] for number, voice in enumerate(pianoroll.VOICES)},
        **{f"leaps_{voice}": leaps[:, number] for number, voice in enumerate(pianoroll.VOICES)},
        "large_leaps": melody.large_leap_share(scores),
        "dissonant_leaps": melody.dissonant_leap_share(scores),
        "answered_leaps": melody.answered_leap_share(scores),
        "falling_steps": melody.falling_step_share(scores),
        "rising_leaps": melody.rising_leap_share(scores),
        "triads": harmony.triad_share(pitches, *grid),
        "triads_or_sevenths": harmony.triad_or_seventh_share(pitches, *grid),
        "suspensions_resolved": harmony.suspension_share(scores),
        "falling_fifths": harmony.falling_fifth_share(scores),
        "leading_tones": harmony.leading_tone_share(scores),
        "sevenths": harmony.seventh_share(scores),
        "stops_on_triads": rhythm.stops_on_triads_share(scores),
        "stops_by_dominant": rhythm.stops_by_dominant_share(scores),
        "repeated_chords": rhythm.repeated_chord_share(pitches, *grid),
        "longest_frozen": rhythm.longest_frozen_beats(scores),
        "frozen": rhythm.frozen_share(scores),
        "key_clarity": tonality.key_clarity(pitches),
        "in_scale": tonality.in_scale_share(pitches),
        "pitch_class_entropy_nats": tonality.pitch_class_entropy_nats(pitches),
        "onsets": rhythm.onsets_per_beat(scores),
        "onsets_on_beat": rhythm.onsets_on_beat_share(scores),
        "onsets_off_eighths": rhythm.onsets_off_eighths_share(scores),
        **dict(zip(("sixteenths", "eighths", "quarters", "halves"), note_lengths.T, strict=True)),
    }
    return {name: found[name] for name in MEASURES}


def measure_copies(
    pitches: Integer[np.ndarray, "n t 4"],
    training: pieces.Pieces,
    lengths: Integer[np.ndarray, " n"] | None = None,
    own: Integer[np.ndarray, " n"] | None = None,
) -> dict[str, Float[np.ndarray, " n"]]:
    """The measures of COPY_MEASURES; `own` as in `copies.longest_run`."""
    return {
        "copied_run": copies.longest_run(pitches, training, lengths, own=own).astype(float),
        "copied_run_soprano": copies.longest_run(pitches, training, lengths, (0,), own).astype(float),
    }


def summarize(
    pitches: Integer[np.ndarray, "n t 4"],
    steps_per_quarter: int = 4,
    lengths: Integer[np.ndarray, " n"] | None = None,
    phases: Integer[np.ndarray, " n"] | None = None,
) -> dict[str, rates.Measure]:
    """Mean and error of every measure over a set of pieces.

    Parallels and direct motion are pooled: events per 100 beats of the whole set, error half the width of the 68 %
    Poisson interval (so that no events do not mean no error). The others are means over the pieces that have the
    measure, with their standard errors.
    """
    found = measure_pieces(pitches, steps_per_quarter, lengths, phases)
    num_beats = beats.mark_valid(pitches, lengths).sum(1) / steps_per_quarter
    summary = {}
    for name, values in found.items():
        if name not in POOLED:
            summary[name] = rates.average(values)
            continue
        count, scale = round((values * num_beats).sum() / 100), 100 / num_beats.sum()
        low, high = rates.poisson_interval(count, confidence=0.6827)
        summary[name] = rates.Measure(count * scale, (high - low) / 2 * scale)
    return summary


def compare(sets: Mapping[str, Mapping[str, Float[np.ndarray, " _"]]]) -> str:
    """A Markdown table: a row for each measure, a column for each set, mean ± standard deviation over its pieces.

    Args:
      sets: by title what `measure_pieces` or `measure_copies` gave, or both together. A measure that a set lacks is a
        dash.
    """
    if not sets:
        raise errors.InputError("no sets to compare; give at least one")
    lines = ["| Measure | Unit | " + " | ".join(sets) + " |", "|" + " --- |" * (2 + len(sets))]
    for name, (unit, _) in (MEASURES | COPY_MEASURES).items():
        if any(name in found for found in sets.values()):
            cells = [_format(found[name], unit) if name in found else "-" for found in sets.values()]
            lines.append(f"| {name} | {'%' if unit == SHARE else unit} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _format(values: Float[np.ndarray, " n"], unit: str) -> str:
    known = values[~np.isnan(values)] * (100 if unit == SHARE else 1)
    if known.size == 0:
        return "-"
    spread = known.std(ddof=1) if known.size > 1 else np.nan
    digits = 1 if unit == SHARE else 2
    return f"{known.mean():.{digits}f} ± {spread:.{digits}f}"

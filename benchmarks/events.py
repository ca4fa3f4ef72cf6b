"""Note events of a corpus: the vocabulary, how long strings are, and that every piece comes back from its string.

python benchmarks/events.py --data=chorales.npz
"""

import argparse
import time
from typing import Any

import numpy as np

from coconet_jax import errors, events, pieces


def count(split: pieces.Pieces, order: events.Order) -> dict[str, Any]:
    """A row of the table; AssertionError where a piece does not come back."""
    scores = [notes[:n] for notes, n in zip(split.pitches, split.lengths, strict=True)]
    begun = time.perf_counter()
    strings = [events.encode(score, order) for score in scores]
    encoded = time.perf_counter()
    back = [events.decode(string, order) for string in strings]
    decoded = time.perf_counter()
    assert all(np.array_equal(a, b) for a, b in zip(scores, back, strict=True))
    sizes, tokens = [len(string) for string in strings], np.concatenate(strings)
    return {
        "pieces": len(scores),
        "tokens": len(tokens),
        "tokens per frame": f"{len(tokens) / split.lengths.sum():.3f}",
        "per piece: median": int(np.median(sizes)),
        "longest": max(sizes),
        "different tokens": len(np.unique(tokens)),
        "offs": f"{((tokens >= events.FIRST_OFF) & (tokens < events.FIRST_WAIT)).mean():.2%}",
        "waits": f"{(tokens >= events.FIRST_WAIT).mean():.1%}",
        "ms a piece: encode": f"{1000 * (encoded - begun) / len(scores):.2f}",
        "decode": f"{1000 * (decoded - encoded) / len(scores):.2f}",
    }


def main() -> None:
    parser = errors.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="FILE.npz", help="written by coconet_jax.chorales --export")
    args = parser.parse_args()
    with errors.exit_on_input_error():
        piece_set = pieces.read_npz(args.data)
    notes, offs = events.FIRST_OFF, events.FIRST_WAIT - events.FIRST_OFF
    print(f"vocabulary: {events.NUM_EVENTS} tokens: {notes} notes, {offs} note offs, {events.MAX_WAIT} waits")
    for number, (order, split) in enumerate((o, s) for o in events.ORDERS for s in piece_set.splits):
        row = {"order": order, "split": split, **count(piece_set.splits[split], order)}
        if not number:
            print("| " + " | ".join(row) + " |\n|" + " --- |" * len(row))
        print("| " + " | ".join(map(str, row.values())) + " |")


if __name__ == "__main__":
    main()

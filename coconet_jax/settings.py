"""The flags of the command for the sampler's settings: one for each field of config.Sample."""

import argparse
import dataclasses
from typing import Final, Literal, get_args, get_origin, get_type_hints

from coconet_jax import config as config_lib
from coconet_jax import errors

# What the help says of each setting; the rest is in config.Sample.
_HELP = {
    "sampler": "gibbs (default) rewrites blocks over and over; ancestral writes one note after another; "
    "ancestral_gibbs does so inside blocks; maskgit takes few calls and keeps, more and more, the surest notes; "
    "upsample goes from quarters to sixteenths",
    "num_steps": "more is slower and better, of maskgit safer. Steps of gibbs and upsample, a model call each, "
    "after that of the first fill (default: one for each note to be written, at most those of 4 bars, and to harmonise "
    "half as many); calls of maskgit (default: 32), and at most of ancestral (default: one for each note); blocks of "
    "ancestral_gibbs, each of as many calls as it has notes (default: 8)",
    "temperature": "below 1 careful, above 1 adventurous (default: "
    + "".join(f"{value} of {name}, " for name, value in config_lib.TEMPERATURES.items())
    + f"else {config_lib.Sample.temperature})",
    "top_p": "draw only from the likeliest notes that hold this share of the probability",
    "greedy": "chance that a call takes the likeliest notes instead of drawing: one number, or two such as 0,0.5 "
    "between which the samples are spread from adventurous to careful",
    "blocks": "gibbs, upsample: what is rewritten as a whole: variables (single cells), runs (4 steps or more of a "
    "voice), frames (all voices of a step), voices",
    "block_prob_max": "gibbs, upsample: share that is rewritten at first",
    "block_prob_min": "gibbs, upsample: and at last; the same as the first for a constant share",
    "anneal_share": "gibbs, upsample: share of the steps over which it falls",
    "order": "ancestral: random or chronological",
    "draws_per_call": "ancestral, ancestral_gibbs: notes written by one model call",
    "context_share": "ancestral_gibbs: share of the free notes that stays while a block is rewritten",
    "confidence_noise": "maskgit: how much chance there is in which notes are kept",
    "remask_share": "maskgit: share of the notes kept so far that every call may mend; in the last third of the "
    "calls it falls to 0",
    "finish_sweeps": "sweeps at the end that rewrite every note with its neighbours given; each "
    "takes up to 4 x finish_stride model calls",
    "finish_stride": "steps between the notes that such a sweep rewrites at once",
    "finish_temperature": "of these sweeps (default: as before)",
}


_GOES_WITH: Final = {
    "blocks": ("gibbs", "upsample"),
    "block_prob_max": ("gibbs", "upsample"),
    "block_prob_min": ("gibbs", "upsample"),
    "anneal_share": ("gibbs", "upsample"),
    "order": ("ancestral",),
    "draws_per_call": ("ancestral", "ancestral_gibbs"),
    "context_share": ("ancestral_gibbs",),
    "confidence_noise": ("maskgit",),
    "remask_share": ("maskgit",),
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds what `from_flags` reads to a parser."""
    group = parser.add_argument_group("how notes are drawn")
    hints = get_type_hints(config_lib.Sample)
    for field in dataclasses.fields(config_lib.Sample):
        text, hint = _HELP[field.name], hints[field.name]
        if field.default and field.default != (0.0, 0.0) and field.name not in ("sampler", "temperature"):
            text += f" (default: {field.default})"
        if get_origin(hint) is Literal:
            group.add_argument(f"--{field.name}", choices=get_args(hint), help=text)
        else:
            kind = hint if hint in (int, float) else str
            group.add_argument(f"--{field.name}", type=kind, metavar="N" if kind is int else "X", help=text)


def from_flags(args: argparse.Namespace) -> config_lib.Sample:
    """The settings that flags ask for; those that are not given have their defaults.

    Raises:
      InputError: values that make no sense.
    """
    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(config_lib.Sample)}
    given = {name: value for name, value in given.items() if value is not None}
    sampler = given.get("sampler", config_lib.Sample.sampler)
    for name in given:
        if sampler not in (fits := _GOES_WITH.get(name, (sampler,))):
            raise errors.InputError(
                f"--{name}={given[name]} goes with --sampler={' or '.join(fits)}; with {sampler} leave it out"
            )
        if name in ("finish_stride", "finish_temperature") and not given.get("finish_sweeps"):
            raise errors.InputError(f"--{name}={given[name]} goes with --finish_sweeps; give that, or leave it out")
    if "greedy" in given:
        try:
            numbers = [float(word) for word in given["greedy"].split(",")]
            least, most = numbers if len(numbers) == 2 else numbers * 2
        except ValueError:
            raise errors.InputError(f"--greedy={args.greedy}: use a number such as 0.3, or two such as 0,0.5") from None
        given["greedy"] = (least, most)
    # A first share below the usual last one stays as it is.
    if "block_prob_max" in given and "block_prob_min" not in given:
        given["block_prob_min"] = min(config_lib.Sample.block_prob_min, given["block_prob_max"])
    return config_lib.usual_sample(**given)

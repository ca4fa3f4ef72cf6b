"""Every setting of a training run, frozen and checked at the door.

`configs/*.py` build a locked ConfigDict from `default()`; `from_mapping` turns it, or what a checkpoint
stored, into frozen dataclasses. Below this module nobody sees flags, ConfigDicts or the environment.
"""

from collections.abc import Mapping
import dataclasses
import difflib
import math
from typing import Any, Final, Literal, TypeVar, get_args, get_origin, get_type_hints

import ml_collections

from coconet_jax import errors


@dataclasses.dataclass(frozen=True)
class Data:
    """Where the chorales come from and how crops are drawn."""

    dataset: str = "music21"  # music21 | music21_extra | jsb16th | folder
    source: str = ""  # the npz of jsb16th, or the folder of scores
    path: str = ""  # a set exported by `python -m coconet_jax.chorales --export`; wins over dataset
    data_dir: str = ""  # where TFDS keeps prepared sets; empty: its default
    steps_per_quarter: int = 4
    crop_steps: int = 64
    crop_grid: int = 0  # steps between possible crop starts; 0: one quarter
    # Crops stick out of their piece by up to half of their length, and what lies outside is given as silence: so a net
    # learns how pieces begin and end, and writes beginnings and ends where silence is given around them.
    ends: bool = False
    transpose: Literal["none", "pitch", "voice"] = "pitch"  # room: none, 36..81, or the voice ranges
    device_mib: int = 1024  # training pieces larger than this stream from the host instead


@dataclasses.dataclass(frozen=True)
class Model:
    """The network (paper section 3; the released code for kernel sizes and BatchNorm)."""

    architecture: Literal["straight", "separable"] = "straight"
    num_layers: int = 64
    num_filters: int = 128
    last_kernel: int = 2  # kernel size of the last two layers: 2 as released, or 3
    dilations: tuple[tuple[int, int], ...] = ((1, 1),)  # (time, pitch), cycled over the inner layers
    full_layers: int = 2  # separable only: leading layers that stay full convolutions
    pointwise_splits: int = 1  # separable only: groups of the pointwise convolution
    # Not in the paper: what the first layer puts out and the logits get a learned offset for each pitch. Without it
    # absolute pitch is known only by what seeps in from the edges, layer by layer, and is learned late.
    pitch_embedding: bool = False
    # Not in the paper either: each layer that keeps the number of channels adds to its convolution one over the whole
    # pitch axis, channel by channel: every interval is then in reach of one layer, rather than of 48 (experiments.md).
    pitch_mixing: bool = False
    # Nor this: steps of a beat, which each get a learned offset; 0: none. Pieces are taken to begin with a beat, or
    # with a pickup that ends with one.
    beat_steps: int = 0
    # Nor this: the share of the channels between the two layers of a residual pair that an example does without in
    # training, other channels in each.
    dropout: float = 0.0
    bn_momentum: float = 0.99
    bn_epsilon: float = 1e-7
    bn_scale_init: float = 0.1
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 on accelerators
    remat: bool = False  # recompute activations in the backward pass: less memory, more time; XLA undoes it on CPU


@dataclasses.dataclass(frozen=True)
class Train:
    """Optimisation, evaluation and saving. Sizes are global: over all devices and processes."""

    seed: int = 0
    batch_size: int = 32
    num_steps: int = 20_000
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    schedule_steps: int = 20_000  # horizon of the cosine; apart from num_steps so that a run can be prolonged
    warmup_steps: int = 200
    learning_rate: float = 3e-3
    final_learning_rate: float = 3e-5  # where the cosine ends
    plateau_evals: int = 5  # plateau only: evaluations without progress before the rate is halved
    weight_decay: float = 0.0
    clip_norm: float = 1.0  # 0: no clipping
    ema_decay: float = 0.999  # 0: no averaging
    context: Literal["orderless", "bernoulli"] = "orderless"
    context_prob: float = 0.5  # bernoulli only: chance of a variable to be given
    stratify: bool = True  # orderless only: spread the sizes evenly over the batch
    # orderless only: shares of the examples with contexts of whole frames, and of all before a moment and nothing after
    frame_share: float = 0.0
    past_share: float = 0.0
    bn_batches: int = 8  # batches that re-estimate BatchNorm's statistics before each evaluation
    eval_every: int = 500  # steps between evaluations
    save_every: int = 0  # steps between checkpoints, a multiple of eval_every; 0: one after each evaluation
    eval_batch_size: int = 32
    eval_contexts: int = 1  # fixed contexts per validation window
    report_every: int = 50
    early_stop_evals: int = 0  # stop after so many evaluations without progress; 0: never
    keep_milestones: bool = True  # keep the checkpoint after each doubling of the step
    # Steps in one compiled call; 0: 1 on CPU, 10 elsewhere; 1 where data are streamed. On accelerators no bit of the
    # result depends on it; on CPU, where the loop is slow, 1 has a program of its own, equal but for rounding.
    steps_per_dispatch: int = 0
    # A run's folder or a model that ships: start from its parameters; its net may be smaller (model.extend). Several
    # with commas between: from the mean of theirs, for nets that came from one start.
    init_from: str = ""
    # Runs or models, with commas between: beside what stands in the pieces the net learns the mean of their
    # probabilities (Hinton et al. 2015, arXiv 1503.02531). teacher_share of the loss is the cross-entropy with that
    # mean, so that the loss says less than valid_nll does. Each costs a forward pass a step.
    teachers: str = ""
    teacher_share: float = 0.7


@dataclasses.dataclass(frozen=True)
class Distributed:
    """Several processes: `auto` on Cloud TPU, GKE and Slurm; or a coordinator named by hand."""

    mode: Literal["off", "auto", "manual"] = "off"
    coordinator: str = ""  # host:port of process 0
    num_processes: int = 1
    process_id: int = 0


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run, whatever is trained: what is derived from this says what `model` is."""

    data: Data = Data()
    model: Any = None
    train: Train = Train()
    distributed: Distributed = Distributed()
    parallel: Literal["auto", "pmap", "shard_map"] = "auto"
    num_devices: int = 0  # 0: all; of one process's CPU as many cores as divide the batches


@dataclasses.dataclass(frozen=True)
class Config(Run):
    """One training run of Coconet."""

    model: Model = Model()


AnyRun = TypeVar("AnyRun", bound=Run)

# Compiled with room for the metrics of so many steps, whatever train.steps_per_dispatch is: one program for all.
MAX_STEPS_PER_DISPATCH = 100
LEAST_TEMPERATURE: Final = 1e-4  # below, float32 runs out of numbers

# What may differ when a run is resumed: none of these changes the maths of a step.
RESUMABLE = frozenset(
    {
        "data.path",
        "data.source",
        "data.data_dir",
        "model.remat",
        "train.num_steps",
        "train.eval_every",
        "train.eval_batch_size",
        "train.save_every",
        "train.report_every",
        "train.early_stop_evals",
        "train.keep_milestones",
        "train.steps_per_dispatch",
        "train.init_from",
        "train.teachers",  # by name; that they are the same is looked after by their digests
        "distributed.mode",
        "distributed.coordinator",
        "distributed.num_processes",
        "distributed.process_id",
        "parallel",
        "num_devices",
    }
)


@dataclasses.dataclass(frozen=True)
class Sample:
    """How scores are sampled. Defaults: annealed blocked Gibbs (Yao et al. 2014; paper section 4.2) as released."""

    # gibbs | ancestral (one variable after another) | ancestral_gibbs (so inside Gibbs blocks) | maskgit (few calls,
    # the most confident draws are kept) | upsample (Gibbs from quarters down to sixteenths)
    sampler: Literal["gibbs", "ancestral", "ancestral_gibbs", "maskgit", "upsample"] = "gibbs"
    # gibbs, upsample: steps after the first fill; 0: see gibbs.num_steps, about one per free variable. ancestral:
    # model calls; 0: one per free variable. ancestral_gibbs: blocks; 0: 8. maskgit: model calls; 0: 32.
    num_steps: int = 0
    temperature: float = 0.99  # TEMPERATURES are what is drawn at unless told otherwise
    top_p: float = 1.0  # draw from the likeliest values that hold this share of the probability; 1: all
    greedy: tuple[float, float] = (0.0, 0.0)  # least and most careful chain's chance to take the likeliest in a call
    blocks: Literal["variables", "runs", "frames", "voices"] = "variables"  # gibbs: what joins a block as a whole
    block_prob_max: float = 0.9
    block_prob_min: float = 0.1
    anneal_share: float = 0.7  # alpha: the share of the steps over which block_prob falls
    order: Literal["random", "chronological"] = "random"  # ancestral
    draws_per_call: int = 1  # ancestral, ancestral_gibbs: variables drawn by one model call
    context_share: float = 0.75  # ancestral_gibbs: rho, the share of the free variables outside a block
    confidence_noise: float = 12.0  # maskgit: scale of the Gumbel noise on log-confidences; falls to 0
    remask_share: float = 0.3  # maskgit: share of the notes kept so far that each call hides again, falling to 0
    finish_sweeps: int = 0  # colouring sweeps at the end, up to 4 * finish_stride model calls each
    finish_stride: int = 8  # steps between the notes of one voice that a sweep draws at once
    finish_temperature: float = 0.0  # of these sweeps; 0: as before

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            if get_origin(hint) is Literal:
                _require(
                    getattr(self, name) in get_args(hint), name, getattr(self, name), f"use one of {get_args(hint)}"
                )
        for name in ("num_steps", "finish_sweeps"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "use 0 or more")
        for name in ("draws_per_call", "finish_stride"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "use 1 or more")
        for name, most in (
            ("num_steps", 10**6),
            ("draws_per_call", 10**6),
            ("finish_sweeps", 1000),
            ("finish_stride", 1000),
            ("temperature", 1000.0),
            ("finish_temperature", 1000.0),
            ("confidence_noise", 1e9),
        ):
            _require(not getattr(self, name) > most, name, getattr(self, name), f"use {most:g} or less")
        # Written so that nan fails too.
        for name in ("temperature", "finish_temperature"):
            value = getattr(self, name)
            fits = value >= LEAST_TEMPERATURE or (value == 0 and name == "finish_temperature")
            _require(fits, name, value, "use 0.0001 or more, such as 0.99 (the likeliest notes: greedy)")
        _require(1e-6 <= self.top_p <= 1, "top_p", self.top_p, "use a value from 0.000001 to 1")
        least, most = self.greedy
        _require(0 <= least <= most <= 1, "greedy", self.greedy, "use two values in [0, 1], the smaller first")
        _require(0 < self.block_prob_max <= 1, "block_prob_max", self.block_prob_max, "use a value in (0, 1]")
        _require(
            0 <= self.block_prob_min <= self.block_prob_max,
            "block_prob_min",
            self.block_prob_min,
            f"use a value in [0, {self.block_prob_max}]",
        )
        _require(0 < self.anneal_share <= 1, "anneal_share", self.anneal_share, "use a value in (0, 1]")
        _require(0 <= self.context_share < 1, "context_share", self.context_share, "use a value in [0, 1)")
        _require(self.confidence_noise >= 0, "confidence_noise", self.confidence_noise, "use 0 or more")
        _require(0 <= self.remask_share < 1, "remask_share", self.remask_share, "use a value in [0, 1)")
        if self.sampler == "ancestral":
            clash = self.num_steps > 0 and self.draws_per_call > 1
            _require(not clash, "draws_per_call", self.draws_per_call, "num_steps settles it; give one of the two")


# What is drawn at unless told otherwise, where it is not the released code's: polished samples of Gibbs have triads and
# V-I nearer to Bach's at 1.05 than at 0.99; of those tried with 32 calls of MaskGIT the KID is lowest at 0.8
# (docs/sampling.md).
TEMPERATURES: Final = {"gibbs": 1.05, "maskgit": 0.8}


def usual_sample(sampler: Any = Sample.sampler, **given: Any) -> Sample:
    """The settings of a sampler as commands and `generate` have them unless told otherwise."""
    given.setdefault("temperature", TEMPERATURES.get(sampler, Sample.temperature))
    return Sample(sampler, **given)


def _require(condition: bool, name: str, value: object, remedy: str) -> None:
    if not condition:
        raise errors.InputError(f"{name}={value!r}: {remedy}")


def default(run: type[Run] = Config) -> ml_collections.ConfigDict:
    """A locked ConfigDict with every field at its default: what `configs/*.py` start from."""
    return ml_collections.ConfigDict(dataclasses.asdict(run())).lock()


def _build(cls: type, mapping: Mapping[str, Any] | ml_collections.ConfigDict, prefix: str) -> Any:
    """Builds the dataclass `cls` from a mapping, naming unknown keys and wrong types in full."""
    hints = get_type_hints(cls)
    for key in mapping:
        if key not in hints:
            close = difflib.get_close_matches(key, hints, n=1)
            meant = f"did you mean {prefix}{close[0]}?" if close else f"known here: {', '.join(hints)}"
            if prefix == "model." and not close:
                meant += "; recipes of the LSTM are for python -m coconet_jax.sequence, others for coconet_jax.train"
            raise errors.InputError(f"unknown config field {prefix}{key}; {meant}")
    values = {}
    for name, hint in hints.items():
        if name in mapping:
            values[name] = _convert(mapping[name], hint, prefix + name)
    return cls(**values)


def _convert(value: Any, hint: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise errors.InputError(f"{name}={value!r}: must be a group of fields")
        return _build(hint, value, name + ".")  # type: ignore[arg-type]
    if get_origin(hint) is Literal:
        _require(value in get_args(hint), name, value, "use one of " + ", ".join(map(str, get_args(hint))))
        return value
    if get_origin(hint) is tuple:
        try:
            pairs = tuple((time, pitch) for time, pitch in value)
        except (TypeError, ValueError):
            pairs = ((None, None),)
        whole = all(type(size) is int for pair in pairs for size in pair)
        _require(whole, name, value, "must be pairs of (time, pitch), whole numbers")
        return pairs
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, float):
        _require(math.isfinite(value), name, value, "must be a finite number")
    _require(type(value) is hint, name, value, f"must be of type {hint.__name__}")
    return value


def from_mapping(mapping: Mapping[str, Any] | ml_collections.ConfigDict) -> Config:
    """A frozen, validated Config from a ConfigDict or from nested dictionaries.

    Raises:
      InputError: an unknown key, a wrong type or a value out of range, by name, value and remedy.
    """
    config = build(Config, mapping)
    _validate_model(config.model)
    beat, data = config.model.beat_steps, config.data
    _require(beat in (0, data.steps_per_quarter), "model.beat_steps", beat, f"use {data.steps_per_quarter} or 0")
    for name, steps in (("data.crop_grid", crop_grid(data)), ("data.crop_steps", data.crop_steps)):
        _require(not beat or steps % beat == 0, name, steps, f"use a multiple of model.beat_steps={beat}")
    return config


def build(run: type[AnyRun], mapping: Mapping[str, Any] | ml_collections.ConfigDict) -> AnyRun:
    """Like `from_mapping`, the config of any kind of run; what its `model` may hold, that checks itself."""
    config = _build(run, mapping.to_dict() if isinstance(mapping, ml_collections.ConfigDict) else mapping, "")
    _validate(config)
    return config  # type: ignore[no-any-return]


def _validate_model(model: Model) -> None:
    for name in ("num_filters", "pointwise_splits"):
        _require(getattr(model, name) >= 1, f"model.{name}", getattr(model, name), "use 1 or more")
    _require(model.full_layers >= 0, "model.full_layers", model.full_layers, "use 0 or more")
    _require(0 <= model.dropout < 1, "model.dropout", model.dropout, "use a value in [0, 1), such as 0.1")
    _require(0 <= model.bn_momentum < 1, "model.bn_momentum", model.bn_momentum, "use a value in [0, 1)")
    _require(model.bn_epsilon > 0, "model.bn_epsilon", model.bn_epsilon, "use a value above 0, such as 1e-7")
    _require(model.num_layers >= 4, "model.num_layers", model.num_layers, "use 4 or more")
    _require(model.last_kernel in (2, 3), "model.last_kernel", model.last_kernel, "use 2 (as released) or 3")
    _require(
        bool(model.dilations) and all(t >= 1 and p >= 1 for t, p in model.dilations),
        "model.dilations",
        model.dilations,
        "use one or more pairs of whole numbers from 1",
    )
    _require(
        model.num_filters % model.pointwise_splits == 0,
        "model.pointwise_splits",
        model.pointwise_splits,
        f"must divide model.num_filters={model.num_filters}",
    )
    _require(
        model.architecture == "straight" or model.full_layers > 0 or 8 % model.pointwise_splits == 0,
        "model.pointwise_splits",
        model.pointwise_splits,
        "must divide the 8 input channels of the first layer where model.full_layers=0; use 1, 2, 4 or 8",
    )


def _validate(config: Run) -> None:
    data, train = config.data, config.train
    at_least_one = {
        "data.crop_steps": data.crop_steps,
        "data.device_mib": data.device_mib,
        "train.batch_size": train.batch_size,
        "train.num_steps": train.num_steps,
        "train.schedule_steps": train.schedule_steps,
        "train.bn_batches": train.bn_batches,
        "train.eval_every": train.eval_every,
        "train.eval_batch_size": train.eval_batch_size,
        "train.eval_contexts": train.eval_contexts,
        "train.report_every": train.report_every,
        "train.plateau_evals": train.plateau_evals,
        "distributed.num_processes": config.distributed.num_processes,
    }
    for name, value in at_least_one.items():
        _require(value >= 1, name, value, "use 1 or more")
    not_negative = {
        "data.crop_grid": data.crop_grid,
        "train.seed": train.seed,
        "train.warmup_steps": train.warmup_steps,
        "train.final_learning_rate": train.final_learning_rate,
        "train.weight_decay": train.weight_decay,
        "train.clip_norm": train.clip_norm,
        "train.early_stop_evals": train.early_stop_evals,
        "train.save_every": train.save_every,
        "train.steps_per_dispatch": train.steps_per_dispatch,
        "num_devices": config.num_devices,
    }
    for name, number in not_negative.items():
        _require(number >= 0, name, number, "use 0 or more")
    at_most = {
        "data.crop_steps": (data.crop_steps, 4096),  # 256 bars of sixteenths
        "data.crop_grid": (data.crop_grid, 4096),
        "train.steps_per_dispatch": (train.steps_per_dispatch, MAX_STEPS_PER_DISPATCH),
    }
    for name, (value, most) in at_most.items():
        _require(value <= most, name, value, f"use {most} or less")
    for name, value in flatten(config).items():  # the device counts in 32 bits
        _require(not isinstance(value, int) or value < 2**31, name, value, f"use a number below {2**31}")
    _require(
        train.save_every % train.eval_every == 0,
        "train.save_every",
        train.save_every,
        f"use a multiple of train.eval_every={train.eval_every}, or 0",
    )
    for name, names in (("train.init_from", train.init_from), ("train.teachers", train.teachers)):
        _require(all(names.split(",")) or not names, name, names, "give runs or models, and one comma between two")
    fits = 0 < train.teacher_share <= 1
    _require(fits, "train.teacher_share", train.teacher_share, "use a value above 0, up to 1")
    heard = bool(train.teachers) or train.teacher_share == Train.teacher_share
    _require(heard, "train.teacher_share", train.teacher_share, "it needs train.teachers")
    _require(train.learning_rate > 0, "train.learning_rate", train.learning_rate, "use a value above 0, such as 3e-3")
    _require(0 <= train.ema_decay < 1, "train.ema_decay", train.ema_decay, "use a value in [0, 1)")
    _require(0 <= train.context_prob < 1, "train.context_prob", train.context_prob, "use a value in [0, 1)")
    for name, share in (("train.frame_share", train.frame_share), ("train.past_share", train.past_share)):
        _require(0 <= share <= 1, name, share, "use a value in [0, 1]")
        _require(not share or train.context == "orderless", name, share, "use 0 without train.context=orderless")
    over = train.frame_share + train.past_share > 1
    _require(not over, "train.past_share", train.past_share, f"use at most {1 - train.frame_share:g}, what is left")
    _require(
        train.schedule != "cosine" or train.warmup_steps < train.schedule_steps,
        "train.warmup_steps",
        train.warmup_steps,
        f"must be below train.schedule_steps={train.schedule_steps}",
    )
    if config.distributed.mode != "manual":
        for name, value in dataclasses.asdict(dataclasses.replace(config.distributed, mode="off")).items():
            usual = getattr(Distributed(), name)
            _require(value == usual, f"distributed.{name}", value, "it needs distributed.mode=manual")
    grid = crop_grid(data)
    room = not data.ends or 2 * grid <= data.crop_steps
    _require(room, "data.ends", data.ends, f"crops stick out by whole steps of {grid}: use data.crop_steps={2 * grid}")
    _require(data.steps_per_quarter in (1, 2, 4), "data.steps_per_quarter", data.steps_per_quarter, "use 4, 2 or 1")


def to_dict(config: Run) -> dict[str, Any]:
    """Nested plain dictionaries, as a checkpoint stores them."""
    return dataclasses.asdict(config)


def flatten(config: Run) -> dict[str, Any]:
    """Dotted names to values, such as {"train.seed": 0}."""
    flat: dict[str, Any] = {}
    for name, value in dataclasses.asdict(config).items():
        if isinstance(value, dict):
            flat.update({f"{name}.{key}": item for key, item in value.items()})
        else:
            flat[name] = value
    return flat


def crop_grid(data: Data) -> int:
    """Steps between possible starts of a crop."""
    return data.crop_grid or data.steps_per_quarter


def milestone_base(train: Train) -> int:
    """The step of a run's first milestone, the others being its doubles; 0 where none are kept."""
    return (train.save_every or train.eval_every) if train.keep_milestones else 0


def check_devices(config: Run, num_devices: int) -> None:
    """Refuses a batch that does not fall into equal parts, naming the nearest that do.

    Raises:
      InputError: train.batch_size is not divisible by the number of devices, of which one process may take fewer.
    """
    size = config.train.batch_size
    if size % num_devices:
        below, above = size - size % num_devices, size - size % num_devices + num_devices
        choices = f"{below} or {above}" if below else str(above)
        fewer = max(n for n in range(1, num_devices) if size % n == 0)
        raise errors.InputError(
            f"train.batch_size={size} is not divisible by {num_devices} devices; use {choices}"
            + ("" if config.distributed.mode != "off" else f", or num_devices={fewer}")
        )


def check_resume(stored: Run, wanted: Run) -> None:
    """Refuses to resume a run under settings that change what a step computes.

    Raises:
      InputError: names each such field with its stored and its wanted value.
    """
    allowed = set(RESUMABLE)
    if stored.train.schedule == "plateau":
        # The plateau rule counts evaluations: their spacing is part of the maths.
        allowed -= {"train.eval_every", "train.eval_batch_size"}
    before, after = flatten(stored), flatten(wanted)
    changed = [f"{k} ({before[k]!r} -> {after[k]!r})" for k in after if k not in allowed and before[k] != after[k]]
    if changed:
        raise errors.InputError(
            "this run was started with other settings: "
            + ", ".join(changed)
            + "; give the old values, or start a new --workdir (--config.train.init_from keeps the parameters)"
        )

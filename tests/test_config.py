"""Settings: what is wrong is named with its value and a remedy, what is right survives a checkpoint."""

import dataclasses
import json
import math
import runpy
import typing
from typing import Any

import conftest
import pytest

from coconet_jax import config, errors

FIELDS = sorted(config.flatten(config.Config()))


def nested(name: str, value: object) -> dict:
    """{"train": {"seed": 1}} of "train.seed", 1."""
    group, _, field = name.rpartition(".")
    return {group: {field: value}} if group else {field: value}


def changed(name: str) -> config.Config:
    """The default with one field set to another value (not validated)."""
    group, _, field = name.rpartition(".")
    part = getattr(config.Config(), group) if group else config.Config()
    value = getattr(part, field)
    choices = typing.get_args(typing.get_type_hints(type(part))[field])
    if isinstance(value, bool):
        value = not value
    elif isinstance(value, int | float):
        value += 1
    elif isinstance(value, tuple):
        value = ((3, 5),)
    else:
        value = choices[-1] if choices else "something else"
    values: dict[str, typing.Any] = {field: value}
    part = dataclasses.replace(part, **values)
    groups: dict[str, typing.Any] = {group: part}
    return dataclasses.replace(config.Config(), **groups) if group else part


def test_default_is_the_dataclasses():
    assert config.from_mapping(config.default()) == config.Config()
    assert config.from_mapping({}) == config.Config()


def test_default_is_locked():
    made = config.default()
    with pytest.raises(AttributeError, match="batchsize"):
        made.train.batchsize = 3
    with pytest.raises(KeyError, match="trian"):
        made["trian"] = {}
    made.train.batch_size = 24
    assert config.from_mapping(made).train.batch_size == 24


def test_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError, match="seed"):
        config.Config().train.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "mapping, message",
    [
        ({"train": {"batchsize": 8}}, r"unknown config field train\.batchsize; did you mean train\.batch_size\?"),
        ({"trian": {}}, r"unknown config field trian; did you mean train\?"),
        ({"model": {"layers": 8}}, r"unknown config field model\.layers; did you mean model\.\w*layers\?"),
        ({"model": {"events_per_step": 8}}, r".* model\.events_per_step; known here: .*; recipes of the LSTM"),
        ({"qqq": 1}, r"unknown config field qqq; known here: data, model, train, distributed, parallel, num_devices"),
    ],
)
def test_unknown_key_is_named_with_a_suggestion(mapping, message):
    with pytest.raises(errors.InputError, match=f"^{message}"):
        config.from_mapping(mapping)


@pytest.mark.parametrize(
    "name, value, remedy",
    [
        ("train.batch_size", "8", "must be of type int"),
        ("train.batch_size", 8.0, "must be of type int"),
        ("train.batch_size", True, "must be of type int"),
        ("train.batch_size", None, "must be of type int"),
        ("train.learning_rate", "3e-3", "must be of type float"),
        ("train.learning_rate", True, "must be of type float"),
        ("train.stratify", 1, "must be of type bool"),
        ("data.path", 3, "must be of type str"),
        ("num_devices", "all", "must be of type int"),
        ("train", 3, "must be a group of fields"),
        ("model.dilations", 3, r"must be pairs of \(time, pitch\)"),
        ("model.dilations", (1, 2), r"must be pairs of \(time, pitch\)"),
        ("model.dilations", ((1, 2, 3),), r"must be pairs of \(time, pitch\)"),
        ("model.dilations", ((1.5, 2),), r"must be pairs of \(time, pitch\)"),
        ("model.dilations", ("12",), r"must be pairs of \(time, pitch\)"),
    ],
)
def test_wrong_type_is_named(name, value, remedy):
    with pytest.raises(errors.InputError, match=rf"^{name}=.*: {remedy}"):
        config.from_mapping(nested(name, value))


BAD_VALUES = [
    ("parallel", "gmap", "use one of auto, pmap, shard_map"),
    ("data.transpose", "up", "use one of none, pitch, voice"),
    ("data.steps_per_quarter", 3, "use 4, 2 or 1"),
    ("data.crop_grid", -1, "use 0 or more"),
    ("model.beat_steps", 2, "use 4 or 0"),
    ("model.architecture", "deep", "use one of straight, separable"),
    ("model.dtype", "float16", "use one of auto, float32, bfloat16"),
    ("model.num_layers", 3, "use 4 or more"),
    ("model.last_kernel", 4, "use 2 (as released) or 3"),
    ("model.dilations", (), "use one or more pairs of whole numbers from 1"),
    ("model.dilations", ((1, 0),), "use one or more pairs of whole numbers from 1"),
    ("model.pointwise_splits", 3, "must divide model.num_filters=128"),
    ("model.full_layers", -1, "use 0 or more"),
    ("model.dropout", 1.0, "use a value in [0, 1), such as 0.1"),
    ("model.bn_momentum", 1.0, "use a value in [0, 1)"),
    ("model.bn_epsilon", 0.0, "use a value above 0, such as 1e-7"),
    ("train.schedule", "linear", "use one of cosine, plateau, constant"),
    ("train.context", "half", "use one of orderless, bernoulli"),
    ("train.seed", -1, "use 0 or more"),
    ("train.learning_rate", 0.0, "use a value above 0, such as 3e-3"),
    ("train.learning_rate", math.nan, "must be a finite number"),
    ("train.learning_rate", math.inf, "must be a finite number"),
    ("train.final_learning_rate", -0.1, "use 0 or more"),
    ("train.weight_decay", -0.1, "use 0 or more"),
    ("train.clip_norm", -1.0, "use 0 or more"),
    ("train.ema_decay", 1.0, "use a value in [0, 1)"),
    ("train.context_prob", 1.0, "use a value in [0, 1)"),
    ("train.frame_share", 1.5, "use a value in [0, 1]"),
    ("train.init_from", "small,", "give runs or models, and one comma between two"),
    ("train.teachers", ",small", "give runs or models, and one comma between two"),
    ("train.teacher_share", 0.0, "use a value above 0, up to 1"),
    ("train.teacher_share", 0.5, "it needs train.teachers"),
    ("train.past_share", -0.5, "use a value in [0, 1]"),
    ("train.warmup_steps", 20_000, "must be below train.schedule_steps=20000"),
    ("train.warmup_steps", -1, "use 0 or more"),
    ("train.save_every", -1, "use 0 or more"),
    ("train.save_every", 750, "use a multiple of train.eval_every=500, or 0"),
    ("train.steps_per_dispatch", 101, "use 100 or less"),
    ("train.num_steps", 2**31, "use a number below 2147483648"),
    ("data.crop_steps", 3_000_000_000, "use 4096 or less"),
    ("data.crop_grid", 3_000_000_000, "use 4096 or less"),
    ("distributed.mode", "on", "use one of off, auto, manual"),
    ("num_devices", -1, "use 0 or more"),
] + [
    (name, 0, "use 1 or more")
    for name in FIELDS
    if name.split(".")[-1]
    in {
        "crop_steps", "device_mib", "num_filters", "pointwise_splits", "batch_size", "num_steps", "schedule_steps",
        "bn_batches", "eval_every", "eval_batch_size", "eval_contexts", "report_every", "plateau_evals",
        "num_processes",
    }
]  # fmt: skip


@pytest.mark.parametrize("name, value, remedy", BAD_VALUES)
def test_bad_value_is_named_with_a_remedy(name, value, remedy):
    with pytest.raises(errors.InputError) as caught:
        config.from_mapping(nested(name, value))
    assert str(caught.value) == f"{name}={value!r}: {remedy}"


def test_processes_are_named_where_they_are_looked_for():
    for mode in ("off", "auto"):
        with pytest.raises(errors.InputError, match="distributed.num_processes=2: it needs distributed.mode=manual"):
            config.from_mapping({"distributed": {"mode": mode, "num_processes": 2}})
    manual = {"mode": "manual", "num_processes": 2, "coordinator": "h:1", "process_id": 1}
    assert config.from_mapping({"distributed": manual}).distributed.process_id == 1


def test_shares_of_contexts_that_do_not_fit_are_refused():
    with pytest.raises(errors.InputError, match="train.past_share=0.5: use at most 0.25, what is left"):
        config.from_mapping({"train": {"frame_share": 0.75, "past_share": 0.5}})
    with pytest.raises(errors.InputError, match="train.frame_share=0.75: use 0 without train.context=orderless"):
        config.from_mapping({"train": {"frame_share": 0.75, "context": "bernoulli"}})


def test_crops_that_cannot_stick_out_are_refused():
    config.from_mapping({"data": {"ends": True, "crop_steps": 10, "crop_grid": 5}})
    with pytest.raises(errors.InputError, match="data.ends=True: crops stick out by whole steps of 5: .*=10"):
        config.from_mapping({"data": {"ends": True, "crop_steps": 9, "crop_grid": 5}})


def test_splits_that_do_not_divide_the_first_layers_input_are_refused():
    separable = {"architecture": "separable", "full_layers": 0}
    with pytest.raises(errors.InputError, match=r"model\.pointwise_splits=16: .*8"):
        config.from_mapping({"model": {**separable, "pointwise_splits": 16}})
    config.from_mapping({"model": {**separable, "pointwise_splits": 8}})
    config.from_mapping({"model": {**separable, "pointwise_splits": 16, "full_layers": 1}})


def test_ints_are_accepted_for_floats():
    rate = config.from_mapping({"train": {"learning_rate": 1}}).train.learning_rate
    assert type(rate) is float
    assert rate == 1.0


def test_round_trip_through_json():
    made = config.from_mapping(
        {
            "model": {"dilations": [[1, 1], [2, 4]], "architecture": "separable"},
            "train": {"learning_rate": 0.01, "stratify": False},
            "num_devices": 2,
        }
    )
    assert made.model.dilations == ((1, 1), (2, 4))
    assert config.from_mapping(json.loads(json.dumps(config.to_dict(made)))) == made
    assert config.from_mapping(config.to_dict(made)) == made


def test_flatten_has_dotted_names():
    flat = config.flatten(config.from_mapping({"train": {"seed": 7}}))
    assert flat["train.seed"] == 7
    assert flat["parallel"] == "auto"
    assert not any(isinstance(value, dict) for value in flat.values())


def test_crops_begin_with_a_beat_where_the_net_knows_beats():
    config.from_mapping({"model": {"beat_steps": 4}, "data": {"crop_grid": 8}})
    for name, value in (("crop_grid", 2), ("crop_steps", 18)):
        with pytest.raises(errors.InputError, match=rf"data\.{name}={value}: use a multiple of model\.beat_steps=4"):
            config.from_mapping({"model": {"beat_steps": 4}, "data": {name: value}})


def test_crop_grid_defaults_to_a_quarter():
    assert config.crop_grid(config.Data(steps_per_quarter=2)) == 2
    assert config.crop_grid(config.Data(steps_per_quarter=4, crop_grid=1)) == 1


def test_milestones_start_at_the_first_checkpoint():
    assert config.milestone_base(config.Train(eval_every=60)) == 60
    assert config.milestone_base(config.Train(eval_every=60, save_every=300)) == 300
    assert config.milestone_base(config.Train(keep_milestones=False)) == 0


@pytest.mark.parametrize("recipe", ["paper", "separable", "small", "beats"])
@pytest.mark.parametrize("count", [4, 8, 16])
def test_recipes_for_accelerators_share_their_batches_out(recipe, count):
    """What the launch scripts begin: 4 or 8 devices of a machine, 16 of several."""
    found = runpy.run_path(str(conftest.REPOSITORY / "configs" / f"{recipe}.py"))["get_config"]()
    config.check_devices(config.from_mapping(found), count)


def test_check_devices_names_the_nearest_sizes():
    def sized(batch_size: int) -> config.Config:
        return config.from_mapping({"train": {"batch_size": batch_size}})

    config.check_devices(sized(24), 8)
    config.check_devices(sized(5), 1)
    with pytest.raises(
        errors.InputError, match=r"^train\.batch_size=20 is not divisible by 8 devices; use 16 or 24, or num_devices=5$"
    ):
        config.check_devices(sized(20), 8)
    with pytest.raises(
        errors.InputError, match=r"^train\.batch_size=5 is not divisible by 8 devices; use 8, or num_devices=5$"
    ):
        config.check_devices(sized(5), 8)


def test_resumable_fields_exist():
    assert set(FIELDS) >= config.RESUMABLE


@pytest.mark.parametrize("name", FIELDS)
def test_resume_allows_exactly_the_resumable(name):
    if name in config.RESUMABLE:
        config.check_resume(config.Config(), changed(name))
        return
    before, after = config.flatten(config.Config())[name], config.flatten(changed(name))[name]
    assert before != after
    with pytest.raises(errors.InputError) as caught:
        config.check_resume(config.Config(), changed(name))
    assert f": {name} ({before!r} -> {after!r}); give the old values" in str(caught.value)


def test_resume_names_every_changed_field():
    wanted = config.from_mapping({"train": {"seed": 4, "num_steps": 99}, "model": {"num_filters": 32}})
    with pytest.raises(errors.InputError, match=r"model\.num_filters \(128 -> 32\), train\.seed \(0 -> 4\)") as caught:
        config.check_resume(config.Config(), wanted)
    assert "num_steps" not in str(caught.value)


@pytest.mark.parametrize("name", ["eval_every", "eval_batch_size"])
def test_under_plateau_the_spacing_of_evaluations_is_part_of_the_run(name):
    plateau = config.from_mapping({"train": {"schedule": "plateau"}})
    other = config.from_mapping({"train": {"schedule": "plateau", name: 7}})
    with pytest.raises(errors.InputError, match=rf"train\.{name} \("):
        config.check_resume(plateau, other)
    config.check_resume(plateau, config.from_mapping({"train": {"schedule": "plateau", "num_steps": 7}}))


@pytest.mark.parametrize(
    "name, value",
    [
        ("num_steps", -1),
        ("temperature", 0.0),
        ("temperature", -1.0),
        ("temperature", math.nan),
        ("block_prob_max", 0.0),
        ("block_prob_max", 1.5),
        ("block_prob_min", -0.1),
        ("block_prob_min", 0.95),
        ("anneal_share", 0.0),
        ("anneal_share", 1.1),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("draws_per_call", 0),
        ("context_share", 1.0),
        ("remask_share", -0.1),
        ("confidence_noise", -1.0),
        ("finish_sweeps", -1),
        ("finish_stride", 0),
        ("finish_temperature", -0.5),
    ],
)
def test_bad_sampling_value_is_named(name, value):
    with pytest.raises(errors.InputError, match=rf"^{name}={value!r}: use "):
        config.Sample(**{name: value})


def test_sampling_defaults_are_those_of_the_released_code():
    released: dict[str, Any] = {"temperature": 0.99, "block_prob_max": 0.9, "block_prob_min": 0.1, "anneal_share": 0.7}
    assert config.Sample() == config.Sample("gibbs", 0, blocks="variables", top_p=1.0, finish_sweeps=0, **released)

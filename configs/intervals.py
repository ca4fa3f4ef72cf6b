"""A net with every interval in reach of each layer: a third of `small`, and quicker to learn (docs/experiments.md).

12 layers of 20 channels whose convolutions each add one over the whole pitch axis, dilated in time alone, which then
reach 32 steps back in time. Not trained to its end yet: `small` is what ships. 55,512 parameters.

COMMAND: python -m coconet_jax.train --config=configs/intervals.py --workdir=runs/intervals
"""

from coconet_jax import config as config_lib


def get_config():
    config = config_lib.default()
    config.model.num_layers = 12
    config.model.num_filters = 20
    config.model.pitch_embedding = True
    config.model.pitch_mixing = True
    config.model.dilations = tuple((time, 1) for time in (1, 1, 2, 2, 4, 4, 8, 8, 1))
    config.train.batch_size = 16
    config.train.num_steps = 40_000
    config.train.schedule_steps = 40_000
    config.train.eval_every = 500
    config.train.report_every = 20
    return config

"""The quickstart's net: what learns most in a few minutes on 2 CPU cores.

12 layers of 20 channels that reach over the whole pitch axis, dilated in time, with learned offsets for each pitch;
crops of two bars that show how pieces begin and end, a few at a time. 55,512 parameters.

COMMAND: python -m coconet_jax.train --config=configs/cpu.py --workdir=runs/quickstart
TIME: 1.5 minutes, compiling included, on 2 cores of an AMD EPYC (x86_64, jax 0.10.2).
NLL: valid 0.600 nats per variable (untrained 3.83), seed 0, dataset music21.
"""

from coconet_jax import config as config_lib


def get_config():
    config = config_lib.default()
    config.model.num_layers = 12
    config.model.num_filters = 20
    config.model.dilations = tuple((time, 1) for time in (1, 1, 2, 2, 4, 4, 8, 8, 1))
    config.model.pitch_embedding = True
    config.model.pitch_mixing = True
    config.data.crop_steps = 32
    config.data.ends = True
    config.train.batch_size = 8
    config.train.num_steps = 1300
    config.train.schedule_steps = 1300
    config.train.warmup_steps = 30
    config.train.learning_rate = 5e-3
    config.train.ema_decay = 0.99
    config.train.eval_every = 100
    config.train.report_every = 20
    return config

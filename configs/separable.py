"""The Bach Doodle's net: 33 layers of 128 channels, depthwise separable, dilated in time and pitch.

Five blocks of dilations (1,1) (2,2) (4,4) (8,8) (16,16) (16,32), two full layers first as in the released
training code, 0.7 M parameters.

COMMAND: python -m coconet_jax.train --config=configs/separable.py --workdir=runs/separable
TIME: for accelerators; not yet timed on one.
NLL: not yet measured.
"""

from coconet_jax import config as config_lib


def get_config():
    config = config_lib.default()
    config.model.architecture = "separable"
    config.model.num_layers = 33
    config.model.num_filters = 128
    config.model.dilations = ((1, 1), (2, 2), (4, 4), (8, 8), (16, 16), (16, 32))
    config.train.batch_size = 32
    config.train.num_steps = 60_000
    config.train.schedule_steps = 60_000
    return config

"""A network of seconds, for tests: nothing it writes is music.

COMMAND: python -m coconet_jax.train --config=configs/test.py --workdir=runs/test
TIME: 23 s on 2 cores of an Intel Xeon (x86_64, jax 0.10.2), most of it compiling; 7 s with a warm compile cache.
"""

from coconet_jax import config as config_lib


def get_config():
    config = config_lib.default()
    config.model.num_layers = 6
    config.model.num_filters = 8
    config.data.crop_steps = 16
    config.train.batch_size = 8
    config.train.num_steps = 20
    config.train.schedule_steps = 20
    config.train.warmup_steps = 2
    config.train.eval_every = 10
    config.train.report_every = 5
    config.train.bn_batches = 2
    return config

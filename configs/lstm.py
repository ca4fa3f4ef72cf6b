"""The second kind of generator: an LSTM on note events, chosen on valid among a few (docs/sequence.md).

COMMAND: python -m coconet_jax.sequence --config=configs/lstm.py --workdir=runs/lstm
"""

from coconet_jax import config as config_lib
from coconet_jax import lstm


def get_config():
    config = config_lib.default(lstm.Config)
    config.data.crop_steps = 128
    config.model.num_units = 256
    config.train.batch_size = 16
    config.train.eval_batch_size = 64
    config.train.num_steps = 2_500
    config.train.schedule_steps = 2_500
    config.train.warmup_steps = 50
    config.train.learning_rate = 3e-3
    config.train.ema_decay = 0.99
    config.train.eval_every = 100
    config.train.report_every = 20
    return config

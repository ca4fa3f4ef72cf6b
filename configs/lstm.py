"""The second kind of generator: an LSTM on note events (docs/sequence.md). 728,264 parameters.

COMMAND: python -m coconet_jax.sequence --config=configs/lstm.py --workdir=runs/lstm
TIME: 31 min on 2 cores of an AMD EPYC (x86_64, jax 0.10.2) beside much other work; at its best rate, 3.8 steps/s, 11.
NLL: 1.651 +- 0.040 nats per frame on valid, 1.726 +- 0.035 on test (chain rule, chronological, whole pieces).
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

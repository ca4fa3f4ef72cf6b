"""The net that ships: small enough to train and to sample on a CPU.

48 layers of 20 channels reach over the whole pitch axis (an independent replication measured 0.614 nats per frame,
framewise, test, with 170 k parameters of this shape), and learned offsets for each pitch, without which absolute pitch
is learned late: after 100 steps 1.19 against 1.60 nats per variable (docs/experiments.md). 168,352 parameters.

COMMAND: python -m coconet_jax.train --config=configs/small.py --workdir=runs/small
TIME: 0.48 s a step on 2 cores of an AMD EPYC (x86_64, jax 0.10.2), so 2.7 hours.
NLL: valid 0.438 nats per variable after 20,000 steps; 0.553 +- 0.023 nats per frame (framewise as released, 1000
frames of valid, docs/results.md).
"""

from coconet_jax import config as config_lib


def get_config():
    config = config_lib.default()
    config.model.num_layers = 48
    config.model.num_filters = 20
    config.model.pitch_embedding = True
    config.train.batch_size = 16
    config.train.num_steps = 20_000
    config.train.schedule_steps = 20_000
    config.train.eval_every = 500
    config.train.report_every = 20
    return config

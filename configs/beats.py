"""The net of configs/small.py, grown: three pairs of layers more, and it is told which step of a beat each step is.

26 layers of 24 channels, otherwise as configs/small.py. 178,656 parameters.

COMMAND: python -m coconet_jax.train --config=configs/beats.py --workdir=runs/beats
  --config.train.init_from=runs/beats_1
TIME: 0.64 s a step on 2 cores of an Intel Xeon (x86_64, jax 0.10.2), so an hour.
NLL: valid 0.4066 nats per variable at step 4,500, not surely better than what it came from. It starts from 1,250 steps
  of the smaller net with beats, and these from runs/a of configs/small.py:
  --config=configs/small.py --workdir=runs/beats_1 --config.model.beat_steps=4 --config.train.learning_rate=1e-3
  --config.train.num_steps=1250 --config.train.schedule_steps=2000 --config.train.warmup_steps=100
  --config.train.init_from=runs/a
"""

from coconet_jax import config as config_lib


def get_config():
    config = config_lib.default()
    config.model.num_layers = 26
    config.model.num_filters = 24
    config.model.pitch_embedding = True
    config.model.pitch_mixing = True
    config.model.beat_steps = 4
    times = (1, 1, 2, 2, 4, 4, 8, 8, 1, 1, 1, 1, 2, 2, 4, 4, 1, 1, 2, 2, 1, 1, 1)
    config.model.dilations = tuple((time, 1) for time in times)
    config.data.ends = True
    config.train.batch_size = 16
    config.train.num_steps = 6_000
    config.train.schedule_steps = 6_000
    config.train.learning_rate = 1.5e-3
    config.train.warmup_steps = 100
    config.train.eval_every = 250
    config.train.report_every = 20
    return config

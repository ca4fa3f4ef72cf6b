"""The net that ships: small enough to train and to sample on a CPU.

20 layers of 24 channels whose convolutions each add one over the whole pitch axis, dilated in time alone, which then
reach 48 steps back in time: nets of this kind learned fastest by far per second of CPU (docs/experiments.md). Its crops
show how pieces begin and end. 134,064 parameters.

COMMAND: python -m coconet_jax.train --config=configs/small.py --workdir=runs/small
TIME: 0.39 s a step on 2 cores of an AMD EPYC (x86_64, jax 0.10.2), so 1.5 hours; 0.5 hours more for the start below,
  and half an hour each for the two runs after it.
NLL: valid 0.407 nats per variable of what ships, 0.409 after runs/a. The weights that ship came about so, each line the
  command above and:
  --workdir=runs/small_1 --config.data.ends=False --config.train.num_steps=20000 --config.train.schedule_steps=20000
    --config.train.learning_rate=3e-3: the start, the best of 4,101 steps
  --workdir=runs/a --config.train.init_from=runs/small_1: the best of 14,000 steps, at 10,500
  --workdir=runs/b --config.train.init_from=runs/a --config.train.frame_share=0.25 --config.train.past_share=0.25
    --config.train.num_steps=2000 --config.train.schedule_steps=2000 --config.train.learning_rate=1e-3
  --workdir=runs/c --config.train.init_from=runs/b --config.train.frame_share=0.45 --config.train.past_share=0.15
    --config.train.num_steps=2000 --config.train.schedule_steps=2000 --config.train.learning_rate=1e-3
  --workdir=runs/mean --config.train.init_from=runs/a,runs/c --config.train.num_steps=1 --config.train.bn_batches=64
    --config.train.learning_rate=1e-9 --config.train.final_learning_rate=0: the mean of two, which ships
b ran before contexts of whole frames hid few frames more often than many (commit 5fed56f).
"""

from coconet_jax import config as config_lib


def get_config():
    config = config_lib.default()
    config.model.num_layers = 20
    config.model.num_filters = 24
    config.model.pitch_embedding = True
    config.model.pitch_mixing = True
    config.model.dilations = tuple((time, 1) for time in (1, 1, 2, 2, 4, 4, 8, 8, 1, 1, 1, 1, 2, 2, 4, 4, 1))
    config.data.ends = True
    config.train.batch_size = 16
    config.train.num_steps = 14_000
    config.train.schedule_steps = 14_000
    config.train.learning_rate = 2.5e-3
    config.train.eval_every = 500
    config.train.report_every = 20
    return config

"""The quickstart's net: what learns most in a few minutes on 2 CPU cores.

16 dilated layers of 20 channels with learned offsets for each pitch, crops of two bars. 51,872 parameters.

COMMAND: python -m coconet_jax.train --config=configs/cpu.py --workdir=runs/quickstart
TIME: 1.4 minutes, compiling included, on 2 cores of an AMD EPYC (x86_64, jax 0.10.2); 3.7 on 2 of an Intel Xeon.
NLL: valid 0.637 nats per variable (untrained 3.83), seed 0, dataset music21.
"""

from coconet_jax import config as config_lib


def get_config():
    config = config_lib.default()
    config.model.num_layers = 16
    config.model.num_filters = 20
    config.model.dilations = ((1, 1), (2, 2), (4, 4), (8, 8))
    config.model.pitch_embedding = True
    config.data.crop_steps = 32
    config.train.batch_size = 16
    config.train.num_steps = 600
    config.train.schedule_steps = 600
    config.train.warmup_steps = 30
    config.train.learning_rate = 5e-3
    config.train.ema_decay = 0.98
    config.train.eval_every = 100
    config.train.report_every = 20
    return config

"""The paper's net and protocol (Huang et al., ISMIR 2017, section 3; released code for what it leaves open).

64 layers of 128 channels, 9.09 M parameters; crops of 64 steps that start anywhere; no transposition; Adam
whose rate is halved on plateau; no averaging. Published: 0.57 +- 0.01 nats per frame (framewise, test). The
rate is the best of an independent replication's sweep, as is the clipping, which the release does without.

COMMAND: python -m coconet_jax.train --config=configs/paper.py --workdir=runs/paper
TIME: for accelerators; not yet timed on one.
NLL: not yet measured.
"""

from coconet_jax import config as config_lib


def get_config():
    config = config_lib.default()
    config.data.crop_grid = 1
    config.data.transpose = "none"
    config.train.batch_size = 16  # released: 20, which 8 or 16 devices cannot share out
    config.train.num_steps = 60_000
    config.train.schedule = "plateau"
    config.train.warmup_steps = 0
    config.train.learning_rate = 3e-3
    # Released: an evaluation every 5 epochs of 12 batches, halving after more than 5 without progress, as here. A
    # checkpoint takes 150 MB, so that only every fifth evaluation is followed by one: the best is the best of those.
    config.train.eval_every = 60
    config.train.plateau_evals = 5
    config.train.save_every = 300
    config.train.eval_batch_size = 16
    config.train.ema_decay = 0.0
    config.train.stratify = False
    return config

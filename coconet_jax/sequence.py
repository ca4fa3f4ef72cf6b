"""Training of the LSTM on note events: the command.

`python -m coconet_jax.sequence --config=configs/lstm.py --workdir=runs/lstm`
"""

import functools
import sys
from typing import Final

from absl import app

from coconet_jax import devices, lstm, train

NET: Final = train.Net(lstm.KIND, lstm, lstm.check_settings)
_HELP: Final = """Trains an LSTM on the note events of four-part chorales, or resumes the run that lives in --workdir.

  python -m coconet_jax.sequence --config=configs/lstm.py --workdir=runs/lstm
  python -m coconet_jax.sequence_sample --checkpoint=runs/lstm --out=chorales --num_samples=256
  python -m coconet_jax.sequence_evaluate --checkpoint=runs/lstm --split=valid

  --config=FILE        a recipe: configs/lstm.py
  --config.GROUP.FIELD=VALUE
                       overrides a field, such as --config.model.num_units=512 --config.data.path=chorales.npz
  --workdir=DIR        where checkpoints/, metrics.jsonl and loss.png go: a folder or a gs:// URL. The same command
                       again resumes from the last checkpoint, bit for bit; a larger --config.train.num_steps prolongs
                       the run.

Ctrl-C or SIGTERM saves and ends. Fields and defaults: coconet_jax/config.py and, of model, coconet_jax/lstm.py."""


if __name__ == "__main__":
    if "--help" not in sys.argv:  # which would import everything twice
        devices.use_huge_pages()
    app.run(functools.partial(train.main, net=NET), flags_parser=functools.partial(train.parse, text=_HELP))

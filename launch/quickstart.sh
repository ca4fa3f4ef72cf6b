#!/usr/bin/env bash
# From nothing to chorales you can open: installs, prepares the data, trains a small net for some minutes, composes
# four chorales and harmonises a soprano of Bach's. Safe to run again: what is done is not done twice.
#
#   bash launch/quickstart.sh                 everything, into runs/quickstart/
#   STEPS=40 bash launch/quickstart.sh        a shorter training (default: as configs/cpu.py says)
#   OUT=runs/other bash launch/quickstart.sh  another folder
#   DRY_RUN=1 bash launch/quickstart.sh       prints the commands
set -euo pipefail
. "$(dirname "$0")/environment.sh"
out=${OUT:-runs/quickstart}

echo "== 1/5 installing into $VENV"
run "$python" -m pip install -q -e .
echo "== 2/5 preparing the chorales (Bach's, from music21's corpus)"
run "$python" -m coconet_jax.chorales --dataset=music21
echo "== 3/5 training configs/cpu.py"
run "$python" -m coconet_jax.train --config=configs/cpu.py --workdir="$out" ${STEPS:+"--config.train.num_steps=$STEPS"}
echo "== 4/5 composing four chorales of four bars"
run "$python" -m coconet_jax.sample --checkpoint="$out" --num_samples=4 --bars=4 --overwrite --out="$out/chorales"
echo "== 5/5 harmonising the soprano of the first test chorale"
run "$python" -m coconet_jax.chorales --piece=test/0 --voice=soprano --out="$out/soprano.musicxml"
run "$python" -m coconet_jax.sample --checkpoint="$out" --harmonize="$out/soprano.musicxml" --num_samples=1 --overwrite --out="$out/harmonised"

flag DRY_RUN || cat <<END

Done. Open these:
  $out/loss.png            the loss curve
  $out/chorales/           four chorales of four bars: .mid to listen, .musicxml to read, .png to see
  $out/harmonised/         a soprano of Bach's ($out/soprano.musicxml) with new alto, tenor and bass
END

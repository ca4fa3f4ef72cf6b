#!/usr/bin/env bash
# The scoreboard of docs/judge.md: draws the sets, evaluates the generators and ranks them.
#
#   bash benchmarks/scoreboard.sh CHORALES.npz EARLIER_RUN LSTM_RUN OUT
#
# CHORALES.npz is written by python -m coconet_jax.chorales --export, EARLIER_RUN is the --workdir of a run of small that
# stopped earlier, LSTM_RUN that of python -m coconet_jax.sequence --config=configs/lstm.py. Samples
# that are in OUT already are not drawn again.
set -euo pipefail
[ $# -eq 4 ] || { echo "use: bash benchmarks/scoreboard.sh CHORALES.npz EARLIER_RUN LSTM_RUN OUT" >&2; exit 2; }
chorales=$1 earlier=$2 lstm=$3 out=$4
for given in "$chorales" "$earlier" "$lstm"; do
  [ -e "$given" ] || { echo "error: $given does not exist; give another" >&2; exit 2; }
done

draw() { python -m coconet_jax.sample --excerpt --num_samples=128 --bars=4 --seed=404 --formats=npz "$@"; }
draw --polish=2 --num_samples=256 --out="$out/polished"
draw --polish=0 --out="$out/gibbs"
draw --polish=0 --sampler=maskgit --num_steps=32 --out="$out/maskgit"
draw --polish=0 --sampler=ancestral --out="$out/ancestral"
draw --polish=0 --checkpoint="$earlier" --out="$out/earlier"
for greedy in 0 0.5; do
  python -m coconet_jax.sequence_sample --checkpoint="$lstm" --num_samples=128 --steps=64 --seed=404 --greedy=$greedy \
    --out="$out/lstm_$greedy"
done

evaluate() { python -m coconet_jax.evaluate --data="$chorales" --measures=notewise_chronological "$@"; }
evaluate --checkpoint=small --out="$out/evaluated_small" --json="$out/small.json"
evaluate --checkpoint="$earlier" --out="$out/evaluated_earlier" --json="$out/earlier.json"
python -m coconet_jax.sequence_evaluate --checkpoint="$lstm" --data="$chorales" --split=valid --json="$out/lstm.json"

python -m coconet_jax.judge rank \
  "small, polished"="$out/polished" "small, Gibbs"="$out/gibbs" "small, MaskGIT"="$out/maskgit" \
  "small, ancestral"="$out/ancestral" "small, earlier"="$out/earlier" \
  "LSTM"="$out/lstm_0" "LSTM, half greedy"="$out/lstm_0.5" \
  "bars shuffled"="test:bars shuffled" "5 % moved"="test:5 % of notes moved" "time reversed"="test:time reversed" \
  "20 % moved"="test:20 % of notes moved" "voices shuffled"="test:voices shuffled" "uniform notes"="test:uniform notes" \
  --evaluations "$out/small.json" "$out/earlier.json" "$out/lstm.json" --data="$chorales" --out="$out/judged"

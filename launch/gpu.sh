#!/usr/bin/env bash
# Sets up a machine with NVIDIA GPUs and trains there, on all of them. The same command again resumes.
#
#   bash launch/gpu.sh                                      trains configs/paper.py into runs/paper
#   bash launch/gpu.sh --config.train.num_steps=50000       further arguments go to coconet_jax.train
#   CONFIG=configs/small.py WORKDIR=runs/small bash launch/gpu.sh
#
#   CONFIG   recipe (default: configs/paper.py)
#   WORKDIR  the run's folder, here or gs://bucket/folder (default: runs/ and the recipe's name)
#   VENV     folder of the environment (default: .venv)
#   DRY_RUN  1: print the commands
set -euo pipefail
. "$(dirname "$0")/common.sh"
config=${CONFIG:-configs/paper.py}
workdir=${WORKDIR:-runs/$(basename "$config" .py)}
extras=cuda
case $workdir in gs://*) extras=cuda,gcs ;; esac

run nvidia-smi -L || fail "no NVIDIA GPU here (nvidia-smi -L fails): install the driver, or train on the CPU as README.md says"
run bash "$(dirname "$0")/host.sh" "$extras"
cd "$(dirname "$0")/.."
run bash launch/rerun.sh "${VENV:-.venv}/bin/python" -m coconet_jax.train --config="$config" --workdir="$workdir" "$@"

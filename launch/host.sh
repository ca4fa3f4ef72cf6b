#!/usr/bin/env bash
# Sets up the package on the machine that is to run it: a Python >= 3.11 where there is none, the package with the
# named extras into .venv, the chorales. Safe to run again; needs no root.
#
#   bash launch/host.sh cuda          a machine with NVIDIA GPUs
#   bash launch/host.sh tpu,gcs       a Cloud TPU VM; gcs is for run folders in gs:// buckets
#
#   VENV     folder of the environment (default: .venv)
#   DRY_RUN  1: print the commands
set -euo pipefail
export BRING_PYTHON=1
. "$(dirname "$0")/environment.sh"
[ $# = 1 ] || fail "host.sh needs the extras to install, such as cuda or tpu,gcs; see bash launch/host.sh --help"
run "$python" -m pip install -q -e ".[$1]"
run "$python" -m coconet_jax.chorales --dataset=music21

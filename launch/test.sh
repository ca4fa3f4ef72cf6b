#!/usr/bin/env bash
# Installs what the tests need and runs all of them. Safe to run again.
#
#   bash launch/test.sh                                    everything
#   bash launch/test.sh tests/test_gibbs.py -k law         a choice, by pytest's arguments
#   VENV=.venv312 PYTHON=python3.12 bash launch/test.sh    under another Python
#   DRY_RUN=1 bash launch/test.sh                          prints the commands
set -euo pipefail
. "$(dirname "$0")/environment.sh"
# The workers have every core, and where cores are busy the threads of numpy's library wait for one another.
export OPENBLAS_NUM_THREADS=1
run "$python" -m pip install -q -e '.[dev,logging,render]'
if [ $# -gt 0 ]; then
  run "$python" -m pytest "$@"
  exit
fi
run "$python" -m ruff check .
run "$python" -m ruff format --check .
run "$python" -m mypy
# worksteal: a file's tests stay with one worker as long as they can, and so do what they share.
echo "== slow checks"
run "$python" -m pytest -m slow -n auto --dist worksteal --durations=5
echo "== the others"
run "$python" -m pytest -m "not slow" -n auto --dist worksteal --durations=10

#!/usr/bin/env bash
# Installs what the tests need and runs all of them. Safe to run again.
#
#   bash launch/test.sh                                    everything
#   bash launch/test.sh tests/test_gibbs.py -k law         a choice, by pytest's arguments
#   VENV=.venv312 PYTHON=python3.12 bash launch/test.sh    under another Python
set -euo pipefail
if [ "${1:-}" = "--help" ] || [ "${1:-}" = "-h" ]; then
  sed -n '2,6s/^# \{0,1\}//p' "$0"
  exit 0
fi
. "$(dirname "$0")/environment.sh"
"$python" -m pip install -q -e '.[dev,logging,render]'
if [ $# -gt 0 ]; then
  exec "$python" -m pytest "$@"
fi
"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m mypy
echo "== slow checks"
"$python" -m pytest -m slow -n auto --durations=5
echo "== the others"
"$python" -m pytest -m "not slow" -n auto --durations=10

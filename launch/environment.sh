# shellcheck shell=bash
# Sourced by the scripts that run the package here: goes to the repository's root and puts a virtual environment's python in $python.
#   VENV          folder of the environment (default: .venv; made where it is missing)
#   PYTHON        the interpreter to make it from (default: the first Python >= 3.11 found)
#   BRING_PYTHON  1: where none is found, fetch Python 3.12 into the home folder, without root
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
VENV=${VENV:-.venv}

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python}; do
    # The interpreter must run, be new enough and be able to make an environment with pip in it.
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

python=$VENV/bin/python
if [ ! -e "$python" ]; then
  if base=$(find_python); then
    echo "making $VENV with $("$base" --version)"
    run "$base" -m venv "$VENV"
  elif flag BRING_PYTHON; then
    # uv brings builds of Python that need no root. A folder of its own, because some systems forbid pip to install
    # beside their packages.
    echo "making $VENV with a Python 3.12 that uv fetches"
    run python3 -m pip install -q --target "$VENV-uv" uv
    run "$VENV-uv/bin/uv" venv -q --seed --python 3.12 "$VENV"
  else
    fail "no Python >= 3.11 with venv found; install one, or name it: PYTHON=/path/to/python3.12 bash $0"
  fi
fi
# An environment made by another tool may lack pip.
run "$python" -m pip --version >/dev/null 2>&1 || run "$python" -m ensurepip >/dev/null 2>&1 ||
  fail "$python has no pip and cannot get it; name another environment: VENV=.venv2 bash $0"

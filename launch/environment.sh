# Sourced by the other scripts: goes to the repository's root and puts a virtual environment's python in $python.
#   VENV    folder of the environment (default: .venv; made where it is missing)
#   PYTHON  the interpreter to make it from (default: the first Python >= 3.11 found)
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
  echo "error: no Python >= 3.11 with venv found; install one, or name it: PYTHON=/path/to/python3.12 bash $0" >&2
  return 1
}

python=$VENV/bin/python
if [ ! -e "$python" ]; then
  base=$(find_python) || exit 1
  echo "making $VENV with $("$base" --version)"
  "$base" -m venv "$VENV"
fi
# An environment made by another tool may lack pip.
"$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip >/dev/null 2>&1 || {
  echo "error: $python has no pip and cannot get it; name another environment: VENV=.venv2 bash $0" >&2
  exit 1
}

# shellcheck shell=bash
# Sourced by the other scripts: --help, errors in one line, dry runs.
#   DRY_RUN  1: print the commands and run none

if [ "${1:-}" = "--help" ] || [ "${1:-}" = "-h" ]; then
  # The comment under the first line of a script is its help.
  sed -n '2,${/^#/!q;s/^# \{0,1\}//p;}' "$0"
  exit 0
fi

fail() {
  echo "error: $*" >&2
  exit 1
}

# Whether the variable of this name is 1 rather than 0 or nothing.
flag() {
  case ${!1:-0} in
    0) return 1 ;;
    1) return 0 ;;
    *) fail "$1=${!1}: use 0 or 1" ;;
  esac
}

# The words as one command line for a shell; quotes only where they are needed.
quoted() {
  local word quote="'" line=""
  for word; do
    case $word in
      "" | *[!A-Za-z0-9_@%+=:,./~-]*) word=$quote${word//$quote/$quote\\$quote$quote}$quote ;;
    esac
    line="$line$word "
  done
  echo "${line% }"
}

# Runs a command, or prints it where DRY_RUN is given.
run() {
  if flag DRY_RUN; then
    quoted "$@"
  else
    "$@"
  fi
}

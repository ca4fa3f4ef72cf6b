"""The one exception a user is meant to read, and how a command ends on it.

Every other exception is a bug of ours and keeps its traceback.
"""

import argparse
from collections.abc import Iterator
import contextlib
import sys
from typing import NoReturn


class InputError(ValueError):
    """A mistake in what the user gave: one line that names the value and the remedy, and a command's exit code."""

    exit_code = 2


class Parser(argparse.ArgumentParser):
    """Complains of bad flags in one line, as of all other mistakes, rather than with all flags there are."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {message} (see --help)", file=sys.stderr)
        sys.exit(2)


@contextlib.contextmanager
def exit_on_input_error() -> Iterator[None]:
    """Turns an InputError into one line on stderr and its exit code; ctrl-C into exit code 130."""
    try:
        yield
    except InputError as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)

"""The one exception a user is meant to read, and how a command ends on it.

Every other exception is a bug of ours and keeps its traceback.
"""

from collections.abc import Iterator
import contextlib
import sys


class InputError(ValueError):
    """A mistake in what the user gave: one line that names the value and the remedy."""


@contextlib.contextmanager
def exit_on_input_error() -> Iterator[None]:
    """Turns an InputError into one line on stderr and exit code 2; ctrl-C into exit code 130."""
    try:
        yield
    except InputError as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)

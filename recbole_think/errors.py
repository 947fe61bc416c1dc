"""The one error a person at the keyboard can cause, and can mend.

The command line turns it into one message and exit code 2, and FloatingPointError (training that ran away) likewise;
every other exception is a bug of ours and keeps its traceback.
"""

import sys
from collections.abc import Callable


class InputError(ValueError):
    """What was asked cannot be done; the message says what was wrong, the value, and what to do."""


class UnavailableError(InputError):
    """What work needs from elsewhere does not answer; the work itself is sound, and may be done where it does."""


def exit_code(work: Callable[[], int], interrupted: str) -> int:
    """Do the work of a command; 2 where what was asked for cannot be done, 130 where it was interrupted, and say so.

    Args:
        work: gives the exit code itself where it ends well.
        interrupted: what becomes of work that was cut off.
    """
    try:
        return work()
    except InputError as why:
        sys.stderr.write(f"error: {why}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted; {interrupted}\n")
        return 130

"""The one error a person at the keyboard can cause, and can mend.

The command line turns it into one message and exit code 2, and FloatingPointError (training that ran away) likewise;
every other exception is a bug of ours and keeps its traceback.
"""


class InputError(ValueError):
    """What was asked cannot be done; the message says what was wrong, the value, and what to do."""

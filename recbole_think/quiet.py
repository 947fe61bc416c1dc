"""What a command of ours does not let other libraries say: remarks nobody who runs it can act upon."""

import os
import warnings


def quiet() -> None:
    """Silence RecBole's remarks on pandas and torch, and transformers' on what it loads; for the start of a program."""
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"recbole\..*")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

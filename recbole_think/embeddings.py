"""Item embeddings of a finished run, for codes that stand near one another where a ranker found items alike."""

from pathlib import Path

import numpy as np

from recbole_think.errors import InputError


def item_embeddings(run_folder: Path, fingerprint: str) -> np.ndarray:
    """Rows of a model's ``item_embedding``, padding left out: float32 [n, d].

    Args:
        run_folder: of a finished run.
        fingerprint: of the split the codes are made on; a run on another one has seen what they must not know.

    Raises:
        InputError: the run is not finished, of another split, or of a model without such embeddings.
    """
    from recbole_think.loading import load

    run = load(run_folder)
    if run.metrics["data_fingerprint"] != fingerprint:
        raise InputError(f"itemic.vector_files: {run_folder} was trained on another split than this run")
    table = getattr(run.model, "item_embedding", None)
    if table is None:
        raise InputError(
            f"itemic.vector_files: {type(run.model).__name__} ({run_folder}) has no item_embedding; take a run of "
            f"SASRecAll, SASRec, GRU4Rec, BPR, ..."
        )
    return table.weight.detach().cpu().numpy()[1 : run.dataset.item_num].astype(np.float32)

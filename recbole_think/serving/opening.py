"""From what the command line says to a server that can begin: run, store, versions, application."""

import argparse

from recbole_think.errors import InputError
from recbole_think.memory import keep_memory
from recbole_think.resume import weights_digest
from recbole_think.serving.app import Server, ServerOptions
from recbole_think.serving.live import Live
from recbole_think.serving.online import OnlineOptions, Recommender
from recbole_think.serving.run import FOLDER, ServedRun, default_store, require_direct
from recbole_think.serving.store import Store, StoreError, open_store
from recbole_think.serving.watching import Watcher


def opened(given: argparse.Namespace, options: ServerOptions) -> tuple[Server, Watcher]:
    """Load everything.

    Args:
        given: run, store, live, split, num_beams, free, cache_mib, block, reload_s.
        options: how requests are taken.

    Raises:
        InputError: a run without a direct model, a store of another catalogue, or anything else that does not fit.
    """
    answering = OnlineOptions(given.num_beams, given.free, given.cache_mib, given.block)
    keep_memory()
    try:
        store = open_store(given.store or default_store(given.run))
        served = ServedRun(given.run, split_of(store, given.split))
        require_direct(served)
        store.claim({"catalogue": served.catalogue.digest, "split": served.split})
    except StoreError as why:
        raise InputError(f"the store does not answer: {why}") from why
    recommender = Recommender(served, store, answering)
    live = Live(given.live or given.run / FOLDER / "live", weights_digest(served.model))
    Watcher(recommender, live, given.reload_s).look()  # begins with the version that answered last
    server = Server(recommender, options)
    return server, Watcher(recommender, live, given.reload_s, server.batcher.between, server.metrics.swaps.inc)


def split_of(store: Store, asked: str) -> str:
    """How far histories go: as the store says, else as asked, else all."""
    return asked or store.facts().get("split", "all")

"""One job of several processes (``torchrun``, ``accelerate launch``): all run the same program, the first one writes.

Every process takes the same decisions in the same order, from the same files and seeds, and they meet wherever a file
is written, so that none looks for it before the others have looked too. Run folder and cache must lie where all see
them. Alone, everything here is free.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

PATIENCE = timedelta(days=1)  # one may work long while others wait; a peer that dies is noticed at once all the same
GONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")  # what gloo says of a peer that died
_alone = False  # within ``by_itself``


class LostProcessError(RuntimeError):
    """Another process of the job has ended before its time."""


def count() -> int:
    """How many processes the job has; 1 while the first one works alone."""
    return 1 if _alone else _size()


def number() -> int:
    """Which of them this is, from 0."""
    return int(os.environ.get("RANK", "0")) if launched() > 1 else 0


def _size() -> int:
    if launched() == 1:
        return 1
    from torch import distributed

    return distributed.get_world_size() if distributed.is_initialized() else 1


def launched() -> int:
    """How many processes a launcher says it has started, whether they have met yet or not."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def own_device() -> Any:
    """The GPU of this process of a job of several, a ``torch.device``; None for a job of one, or without GPUs."""
    if launched() == 1:
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def gpus() -> str:
    """GPUs to be seen where nobody has said which: the first one, or all by a job of several."""
    if launched() == 1:
        return "0"
    import torch

    return ",".join(str(number) for number in range(torch.cuda.device_count()))


@contextmanager
def joined() -> Iterator[None]:
    """Within the block the processes of a job know one another."""
    if launched() == 1 or _size() > 1:
        yield
        return
    import torch
    from torch import distributed

    device = own_device()
    if device is not None:
        torch.cuda.set_device(device)
    backend = "gloo" if device is None else "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, timeout=PATIENCE)
    try:
        yield
    except (distributed.DistError, RuntimeError) as why:
        if not any(words in str(why) for words in GONE):
            raise
        raise LostProcessError(str(why)) from why
    finally:
        distributed.destroy_process_group()


def meet() -> None:
    """Wait for all others."""
    if count() > 1:
        import torch
        from torch import distributed

        distributed.all_reduce(torch.zeros(1))  # on the CPU: a barrier of NCCL would time out while one works


@contextmanager
def first_alone() -> Iterator[bool]:
    """The first process works through the block while the others wait for its end; says whether this is the first.

    Within it the first one meets nobody. If it fails the job ends: the launcher stops the others.
    """
    if count() == 1:
        yield True
        return
    meet()
    if number():
        yield False
    else:
        with by_itself():
            yield True
    meet()


@contextmanager
def by_itself() -> Iterator[None]:
    """Within the block this process meets nobody."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def average_gradients(parameters: Iterable[Any]) -> None:
    """Give all processes the mean of their gradients."""
    of = count()
    if of == 1:
        return
    from torch import distributed

    for parameter in parameters:
        if parameter.grad is not None:
            distributed.all_reduce(parameter.grad)
            parameter.grad.div_(of)


def made_once(make: Callable[[], Any]) -> Any:
    """What the first process makes, for all."""
    with first_alone() as mine:
        made = make() if mine else None
    return gathered(made)[0]


def gathered(mine: Any) -> list[Any]:
    """What each process has, in their order."""
    if count() == 1:
        return [mine]
    from torch import distributed

    found: list[Any] = [None] * count()
    distributed.all_gather_object(found, mine)
    return found

import subprocess
import sys

CODE = """
import resource, sys, torch
from recbole_think.memory import keep_memory
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():
    for _ in range(20):
        torch.ones(16_000_000)  # 64 MB, freed at once
before = faults(); work(); left_alone = faults() - before
if not keep_memory():
    sys.exit(0)  # another C library: nothing to tell
work(); before = faults(); work(); kept = faults() - before
sys.exit(0 if kept * 10 < left_alone else f"{kept} faults after, {left_alone} before")
"""


def test_memory_that_was_freed_is_used_again_without_asking_the_system():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

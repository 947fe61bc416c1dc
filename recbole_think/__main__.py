"""``python -m recbole_think --model=... --dataset=...``: as ``run_recbole_think.py``, wherever the package is."""

from recbole_think.cli import entry

if __name__ == "__main__":
    entry()

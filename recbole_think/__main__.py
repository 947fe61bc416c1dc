"""``python -m recbole_think --model=... --dataset=...``: what ``run_recbole_think.py`` does, wherever the package is."""

from recbole_think.cli import entry

if __name__ == "__main__":
    entry()

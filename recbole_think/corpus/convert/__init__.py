"""Data sets as their publishers give them -> RecBole atomic files; ``python -m recbole_think.corpus.convert -h``."""

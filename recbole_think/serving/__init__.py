"""Serving: thinking is done ahead of time, answers are given in milliseconds (Think-Ahead, arXiv 2510.11639 section 5).

``think_ahead.py`` fills a store (``store/``), ``online.py`` answers from it with a direct model, ``app.py`` is the
server around that, ``update.py`` teaches the direct model what happens meanwhile.
"""

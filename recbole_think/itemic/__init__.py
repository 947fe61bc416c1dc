"""Semantic ids: item text and behaviour in, codes, tokens and a language model that knows them out."""

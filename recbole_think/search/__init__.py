"""Hyper-parameters searched for on validation: the space, the trials, what they say."""

"""Recommenders RecBole lacks, or has with a fault: one file each."""

"""What the data set says: files, item text, histories. Knows nothing of language models."""

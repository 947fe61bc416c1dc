"""From a prompt to a ranked list of real items: an exact trie, batched beams, score tables."""

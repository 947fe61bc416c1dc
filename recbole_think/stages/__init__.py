"""The stages that teach a language model to recommend, one file each, in one shape: context in, artifact out."""

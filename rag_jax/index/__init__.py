"""The generative index: docid schemes, build, save, live changes, crops."""

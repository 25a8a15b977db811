"""The generative index: docid schemes, packing, saving, pseudo-queries."""

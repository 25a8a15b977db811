"""Models: transformer blocks in Flax; BERT, T5 and Llama as pure functions."""

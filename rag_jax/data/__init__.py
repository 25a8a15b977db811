"""Data: readers, tokenizers, batches and the embedded facts."""

"""Data: file formats, tokenizers, batches and the embedded facts dataset."""

"""Questions that a model writes about documents.

settings: the configuration; generator: trains the model and draws questions;
round_trip: keeps those that BM25 finds their document by; cache: the file of
the questions; corpus_questions: all of it, for the documents of a run.
"""

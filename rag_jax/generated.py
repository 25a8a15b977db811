"""Generated questions of a run: keys of documents, pseudo-queries, docids."""

import dataclasses
import pathlib
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import tokenizers as hf_tokenizers

from rag_jax import config as configs
from rag_jax import console, store, types
from rag_jax.data import pipeline, tokenizers, widths
from rag_jax.generation import cache, corpus_questions, generator
from rag_jax.index import index as indexes


def trains(config: configs.Config) -> bool:
  """Whether generated questions are pseudo-queries of a stage."""
  rate = config.pseudo_queries.generated_rate
  return bool(rate) and config.trains_with(frozenset(('indexing',)))


def has_docids(config: configs.Config) -> bool:
  """Whether generated questions give documents further docids."""
  return bool(config.docid.further) and config.docid.further_from == 'questions'


def needed(config: configs.Config, workdir: pathlib.Path) -> list[pathlib.Path]:
  """The file of questions of a run; [] if it uses none."""
  used = trains(config) or config.data.question_keys or has_docids(config)
  if not used:
    return []
  return [workdir / corpus_questions.QUESTIONS]


def make(
  config: configs.Config,
  dataset: types.Dataset,
  tokenizer: hf_tokenizers.Tokenizer,
  workdir: pathlib.Path,
) -> cache.Found:
  """Questions about the documents, made once for a workdir; {} if unused.

  Only questions of the training split with gold documents, see
  `data.labelled_questions`, train the model.
  """
  if not needed(config, workdir):
    return {}
  return corpus_questions.make(
    config.generator,
    config.data,
    config.seed,
    tokenizer,
    dataset.documents,
    pipeline.train_questions(dataset, config.data),
    workdir,
  )


def keyed(
  config: configs.Config,
  documents: Sequence[types.Document],
  found: cache.Found,
) -> store.Documents:
  """The documents, with their questions as keys if `data.question_keys`."""
  if not config.data.question_keys:
    return tuple(documents)
  return tuple(corpus_questions.attach(documents, found))


def tokens_of(
  tokenizer: hf_tokenizers.Tokenizer, texts: Sequence[str]
) -> np.ndarray:
  """Questions as tokens int32[n, T]; prints how many are cut."""
  encoded = tokenizers.encode(tokenizer, texts, max_tokens=widths.LIMIT)
  if encoded.truncated:
    console.note(
      f'{encoded.truncated} of {len(texts)} generated questions are cut after '
      f'{widths.LIMIT} tokens.'
    )
  return widths.trim(encoded.tokens)


def with_pseudo_queries(
  config: configs.Config,
  index: indexes.Index,
  tokenizer: hf_tokenizers.Tokenizer,
  found: cache.Found,
) -> indexes.Index:
  """The index with the questions that the loss `indexing` draws from.

  Args:
    config: the experiment.
    index: the corpus, its documents in the order of `found`.
    tokenizer: of questions and documents.
    found: questions of every document.
  """
  if not trains(config):
    return index
  counts = np.asarray([len(own) for own in found.values()], np.int32)
  texts = [text for own in found.values() for text in own]
  tokens = tokens_of(tokenizer, texts)
  most = max(int(counts.max(initial=0)), 1)
  table = np.zeros((len(counts), most, tokens.shape[1]), np.int32)
  table[np.arange(most) < counts[:, None]] = tokens
  return dataclasses.replace(
    index, generated=(jnp.asarray(table), jnp.asarray(counts))
  )


def add_keys(
  config: configs.Config,
  workdir: pathlib.Path | None,
  tokenizer: hf_tokenizers.Tokenizer,
  corpus: Sequence[types.Document | None],
  new: Sequence[types.Document],
) -> list[types.Document]:
  """New documents, with questions if the run uses them and has a generator.

  Documents that have questions keep these alone.
  """
  used = config.data.question_keys or has_docids(config)
  if not used or all(d.questions for d in new):
    return list(new)
  path = None if workdir is None else workdir / corpus_questions.MODEL
  if path is None or not path.exists():
    console.note(
      f'no question generator in the workdir, so {len(new)} documents get no '
      "generated questions; give their 'questions' with them."
    )
    return list(new)
  model = generator.load(
    config.generator, config.data, config.seed, tokenizer, path
  )
  present = [document for document in corpus if document is not None]
  return corpus_questions.add_keys(model, present, new)

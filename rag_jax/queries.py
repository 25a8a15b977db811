"""Questions of a system as arrays, and what of them is cut."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import tokenizers as hf_tokenizers

from rag_jax import config as configs
from rag_jax import model, parallel, readers, types
from rag_jax.data import batches, citations, encoder_input, widths, words
from rag_jax.index import index as indexes
from rag_jax.readers import base

SIZES = (1, 8, 64)  # batch sizes; each is compiled once for a width
# Model configuration -> function (params, batch, index, allowed) -> pytree.
Function = Callable[[model.ModelConfig], Callable[..., Any]]


def limit(config: configs.Config) -> int:
  """Maximum tokens of a question; no more are searched or read."""
  return model.query_limit(config.model, config.data.max_document_tokens)


def prompt(config: configs.Config) -> int:
  """Tokens that the reader's prompt adds to a question, at most."""
  text = readers.make(config.reader).text_inputs
  return 0 if text is None else text.overhead


def encode(
  config: configs.Config,
  questions: Sequence[types.Question],
  rows: dict[str, int],
  *,
  tokenizer: hf_tokenizers.Tokenizer,
  reader_tokenizer: hf_tokenizers.Tokenizer | None = None,
  vocabulary: words.Vocabulary | None = None,
  max_tokens: int = 0,
  targets: bool = True,
) -> batches.Questions:
  """Tokenises questions for all components, as wide as the longest one.

  Args:
    config: the experiment.
    questions: n questions.
    rows: id -> row of each document in the index.
    tokenizer: tokenizer of questions and documents.
    reader_tokenizer: tokenizer of a reader that does not use `tokenizer`.
    vocabulary: words of the index's lexicon, if it has one.
    max_tokens: longer questions are cut; 0 = `limit`.
    targets: whether to include answers and gold documents, for training.
  """
  data, most = config.data, limit(config)
  if max_tokens:
    more = encoder_input.prompt_tokens(tokenizer, data.query_prompt)
    most = min(most, max_tokens + more)
  encoded = batches.encode_questions(
    tokenizer,
    questions,
    rows,
    data,
    vocabulary,
    max_tokens=most,
    targets=targets,
  )
  reader = readers.make(config.reader)
  if reader.cites and targets:
    encoded = dataclasses.replace(
      encoded,
      answers=citations.encode_targets(
        tokenizer,
        [question.answers for question in questions],
        max_answers=data.max_answers,
        max_tokens=data.max_answer_tokens,
      ),
    )
  reader_text = reader.text_inputs
  if reader_text is None or reader_tokenizer is None:
    return encoded
  query, cut = _reader_query(
    config, reader_text, reader_tokenizer, questions, max_tokens
  )
  encoded = dataclasses.replace(
    encoded, reader_query=query, cut=encoded.cut | cut
  )
  if not targets:
    return encoded
  return dataclasses.replace(
    encoded,
    reader_answers=reader_text.answers(
      reader_tokenizer,
      [question.answers for question in questions],
      max_answers=data.max_answers,
      max_tokens=data.max_answer_tokens,
    ),
  )


def _reader_query(
  config: configs.Config,
  reader_text: base.TextInputs,
  tokenizer: hf_tokenizers.Tokenizer,
  questions: Sequence[types.Question],
  max_tokens: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Questions in the reader's own tokens, and which of them are cut."""
  most = limit(config)
  if config.reader.kind != 'bert':  # it has no positions that end
    most = 2 * most  # its tokens may be more than those of the query encoder
  most = min(most, max_tokens) if max_tokens else most
  most += reader_text.overhead
  texts = [question.text for question in questions]
  query = reader_text.questions(tokenizer, texts, max_tokens=most)
  cut = query[:, -1] != types.PAD
  full = np.flatnonzero(cut)
  if len(full):  # one that just fits is not cut
    wider = reader_text.questions(
      tokenizer, [texts[int(i)] for i in full], max_tokens=most + 1
    )
    cut[full] = wider[:, -1] != types.PAD
  return widths.trim(query), cut


def run(
  config: configs.Config,
  function: Function,
  params: model.Params,
  questions: batches.Questions,
  index: indexes.Index,
  *,
  allowed: jax.Array | None = None,
  batch_size: int = 0,
) -> Any:
  """Runs a function of the module `compiled` over questions, in batches.

  Args:
    config: the experiment.
    function: makes the function of a model.
    params: parameters of all components.
    questions: n questions, from `encode`.
    index: the corpus.
    allowed: bool[N], documents that may be returned; None = all.
    batch_size: questions per batch; 0 = the smallest sufficient of `SIZES`.

  Returns:
    The pytree of the function with n rows, on the host.
  """
  count = len(questions.query)
  size = batch_size or next((s for s in SIZES if s >= count), SIZES[-1])
  compiled = function(config.model)
  rows, parts = [], []
  for own, batch in batches.asked_batches(
    questions, batch_size=size, max_tokens=limit(config), prompt=prompt(config)
  ):
    rows.append(own)
    parts.append(parallel.call(compiled, params, batch, index, allowed))
  back = np.argsort(np.concatenate(rows))

  def whole(*found):
    real = [x[: len(own)] for x, own in zip(found, rows, strict=True)]
    return np.concatenate(real)[back]

  return jax.tree.map(whole, *parts)


def cut_note(
  config: configs.Config, cut: np.ndarray, what: str = 'questions'
) -> str:
  """The note on questions that lose their end; '' if there are none.

  Args:
    config: the experiment.
    cut: bool[n], whether each question does.
    what: which questions they are.
  """
  if not cut.any():
    return ''
  return (
    f'{cut.sum()} of {len(cut)} {what} cut after {limit(config)} tokens, as '
    'many as the model takes.'
  )


def notes(
  config: configs.Config,
  tokenizer: hf_tokenizers.Tokenizer,
  splits: dict[str, Sequence[types.Question]],
) -> list[str]:
  """Notes on questions that evaluation cuts, for each split."""
  most, found = limit(config), []
  for name, questions in splits.items():
    cut = np.zeros(len(questions), bool)
    # A token has a byte or more, but for a few special tokens.
    sizes = [len(q.text.encode(errors='replace')) for q in questions]
    long = np.flatnonzero(np.asarray(sizes, int) > most - 8)
    encoded = batches.encode_questions(
      tokenizer,
      [questions[int(i)] for i in long],
      {},
      config.data,
      max_tokens=most,
      targets=False,
    )
    cut[long] = encoded.cut
    found.append(cut_note(config, cut, f'questions in {name}'))
  return [note for note in found if note]

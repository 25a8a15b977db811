"""From text to batches: tokenised once on the host, fed by Grain.

Batch number s depends on the seed and s alone, so that a run resumes from its
step without any state of the pipeline.
"""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import flax.struct
import grain
import jax
import jax.numpy as jnp
import numpy as np
import tokenizers as hf_tokenizers

from rag_jax import types
from rag_jax.data import tokenizers, words

POOL = 16  # batches that questions are sorted within, by length


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
  """Which data, and how much of each text is kept."""

  path: str = 'facts'  # 'facts', a file or folder, or 'tfds:NAME'
  # 'facts', 'beir', 'squad', 'dpr', 'jsonl' or 'tfds'; 'auto' recognises it
  format: str = 'auto'
  # what to do with a document without text: 'error' or 'skip'
  on_empty: str = 'error'
  train_split: str = 'train'  # split to train on
  eval_splits: tuple[str, ...] = ()  # splits to measure; () = all others
  # questions a split to measure, spread evenly; 0 = all
  eval_questions: int = 0
  vocab_size: int = 8000  # tokens of the tokenizer that is learned
  max_query_tokens: int = 24  # tokens kept of a question
  max_document_tokens: int = 176  # tokens kept of a document
  max_answers: int = 3  # answers kept of a question
  # tokens of an answer; a longer one is left out of training
  max_answer_tokens: int = 12
  max_gold: int = 1  # gold documents kept of a question
  # training questions that keep their gold documents; 0 = all
  labelled_questions: int = 0
  tokenizer: str = ''  # published tokenizer; '' = one learned from the data
  # tokens of a document that a published encoder reads
  max_vector_tokens: int = 192
  # whole words kept of a question for BM25 in the search; 0 = no BM25 there
  max_query_words: int = 0
  bm25_k1: float = 1.2  # BM25's k1, in the search and in the table of results
  bm25_b: float = 0.75  # BM25's b
  title_weight: int = 1  # times that a title counts for BM25
  pair_weight: float = 0.0  # weight of pairs of neighbouring words in BM25

  def __post_init__(self) -> None:
    """Raises a ValueError on a value out of range."""
    tokenizers.check_vocab_size(self.vocab_size)
    for name in (
      'max_query_tokens',
      'max_document_tokens',
      'max_answers',
      'max_answer_tokens',
      'max_gold',
    ):
      if getattr(self, name) < 1:
        raise ValueError(
          f'data.{name} must be at least 1, got {getattr(self, name)}. '
          f'Set --config.data.{name}.'
        )
    counts = ('eval_questions', 'labelled_questions', 'max_query_words')
    for name in (*counts, 'title_weight', 'pair_weight'):
      if getattr(self, name) < 0:
        raise ValueError(
          f'data.{name} must be at least 0, got {getattr(self, name)}. '
          f'Set --config.data.{name}.'
        )


@flax.struct.dataclass
class Questions:
  """A split as arrays, one row a question."""

  query: np.ndarray  # int32[n, Q]
  answers: np.ndarray  # int32[n, M, A]
  gold: np.ndarray  # int32[n, G], -1 = none
  words: np.ndarray | None = None  # int32[n, W], where there is a lexicon
  answerable: np.ndarray | None = None  # bool[n]; None = all are
  negative: np.ndarray | None = None  # int32[n], a hard negative; -1 = none
  # In the tokens of a reader that has its own.
  reader_query: np.ndarray | None = None  # int32[n, Q']
  reader_answers: np.ndarray | None = None  # int32[n, M, A']


def train_tokenizer(
  dataset: types.Dataset, config: DataConfig
) -> hf_tokenizers.Tokenizer:
  """Learns a vocabulary from the documents and the training questions."""
  texts = [document_text(d) for d in dataset.documents]
  texts += [q.text for q in dataset.splits.get(config.train_split, ())]
  return tokenizers.train(texts, vocab_size=config.vocab_size)


def document_text(document: types.Document) -> str:
  """What is tokenised, and what answers point into: title and text."""
  return (
    f'{document.title} . {document.text}' if document.title else (document.text)
  )


def encode_documents(
  tokenizer: hf_tokenizers.Tokenizer,
  documents: Sequence[types.Document],
  config: DataConfig,
) -> tokenizers.Encoded:
  """Tokens of documents, int32[N, P], and how many were cut."""
  return tokenizers.encode(
    tokenizer,
    [document_text(d) for d in documents],
    max_tokens=config.max_document_tokens,
  )


def encode_questions(
  tokenizer: hf_tokenizers.Tokenizer,
  questions: Sequence[types.Question],
  rows: dict[str, int],
  config: DataConfig,
  vocabulary: words.Vocabulary | None = None,
) -> Questions:
  """Tokenises questions.

  Args:
    tokenizer: of the documents.
    questions: a split.
    rows: row of each document by its id.
    config: lengths to cut to.
    vocabulary: of the lexicon, if there is one.

  Returns:
    The split as arrays. An answer that is longer than `max_answer_tokens`
    gets no tokens: it cannot be a target, but is still counted when measured.
  """
  count = len(questions)
  texts = [q.text for q in questions]
  query = tokenizers.encode(
    tokenizer,
    texts,
    max_tokens=config.max_query_tokens,
    with_special_tokens=True,
  ).tokens
  answers = np.zeros(
    (count, config.max_answers, config.max_answer_tokens), np.int32
  )
  gold = np.full((count, config.max_gold), -1, np.int32)
  flat, places = [], []
  for i, question in enumerate(questions):
    for j, text in enumerate(question.answers[: config.max_answers]):
      flat.append(text)
      places.append((i, j))
    for j, name in enumerate(question.document_ids[: config.max_gold]):
      gold[i, j] = rows.get(name, -1)  # -1 once it has been deleted
  if flat:
    longer = config.max_answer_tokens + 1
    encoded = tokenizers.encode(tokenizer, flat, max_tokens=longer).tokens
    fits = encoded[:, -1] == types.PAD
    index = np.asarray(places)[fits]
    answers[index[:, 0], index[:, 1]] = encoded[fits, :-1]
  whole_words = None
  if vocabulary is not None:
    whole_words = words.encode(
      vocabulary, texts, max_words=config.max_query_words
    )
  return Questions(
    query=query,
    answers=answers,
    gold=gold,
    words=whole_words,
    answerable=np.asarray([q.answerable for q in questions], bool),
  )


def train_questions(
  dataset: types.Dataset, config: DataConfig
) -> Sequence[types.Question]:
  """The questions to train on; all but `labelled_questions` have answers only.

  Those that keep their gold documents are spread evenly over the questions
  that have any.
  """
  questions = dataset.splits[config.train_split]
  if not config.labelled_questions:
    return questions
  rows = [i for i, question in enumerate(questions) if question.document_ids]
  kept = set(spread(rows, config.labelled_questions))
  return [
    question if i in kept else dataclasses.replace(question, document_ids=())
    for i, question in enumerate(questions)
  ]


def spread(rows: Sequence[Any], count: int) -> Sequence[Any]:
  """So many of them, spread evenly; 0 takes all.

  Neighbours often ask about one page: the first of a split are no sample.

  Example:
    >>> spread('abcdefgh', 3)
    ['a', 'c', 'f']
  """
  total = len(rows)
  if not 0 < count < total:
    return rows
  return [rows[i * total // count] for i in range(count)]


def train_batches(
  questions: Questions, *, batch_size: int, seed: int
) -> grain.MapDataset:
  """Shuffled, endless batches; element s is the batch of step s."""
  source = grain.MapDataset.source(np.arange(len(questions.query)))
  return (
    source.seed(seed)
    .shuffle()
    .repeat()
    .batch(batch_size)
    .map(lambda rows: take(questions, np.asarray(rows)))
  )


def reading_batches(
  questions: Questions,
  lengths: np.ndarray,
  *,
  batch_size: int,
  seed: int,
) -> grain.MapDataset:
  """Shuffled, endless batches of questions on documents of like length.

  Questions are shuffled, sorted by the length of what is read within `POOL`
  batches, and these batches are shuffled: little of a batch is padding,
  and every epoch has other batches.

  Args:
    questions: a split; those without a gold document are left out.
    lengths: int[N], tokens of each document.
    batch_size: B.
    seed: of the order.

  Returns:
    Element s is (batch, tokens of its longest document), and depends on the
    seed and s alone.
  """
  gold = questions.gold
  read = gold
  if questions.negative is not None:
    read = np.column_stack([gold, questions.negative])
  own = np.where(read >= 0, lengths[read], 0).max(axis=1)
  pools = (
    grain.MapDataset.source(np.flatnonzero((gold >= 0).any(axis=1)))
    .seed(seed)
    .shuffle()
    .repeat()
    .batch(batch_size * POOL)
  )

  def pick(number):
    pool, place = divmod(int(number), POOL)
    rows = np.asarray(pools[pool])
    rows = rows[np.argsort(own[rows], kind='stable')].reshape(-1, batch_size)
    order = np.random.default_rng((seed, pool)).permutation(len(rows))
    rows = rows[order[place]]
    return take(questions, rows), int(own[rows].max())

  return grain.MapDataset.range(sys.maxsize).map(pick)


def eval_batches(
  questions: Questions, *, batch_size: int
) -> Iterator[types.Batch]:
  """Every question once, in order; the last batch is padded."""
  count = len(questions.query)
  for start in range(0, count, batch_size):
    rows = np.arange(start, start + batch_size)
    batch = take(questions, np.minimum(rows, count - 1))
    yield dataclasses.replace(batch, where=jnp.asarray(rows < count))


def keep(questions: Questions, rows: np.ndarray) -> Questions:
  """The questions of some rows."""
  return jax.tree.map(lambda x: x[rows], questions)


def take(questions: Questions, rows: np.ndarray) -> types.Batch:
  """The batch of some rows."""
  own = jax.tree.map(jnp.asarray, keep(questions, rows))
  where = jnp.ones(len(rows), bool)
  return types.Batch(where=where, **vars(own))


def span(
  tokenizer: hf_tokenizers.Tokenizer,
  document: types.Document,
  start: int,
  end: int,
  config: DataConfig,
) -> tuple[int, int]:
  """Characters of `document_text` from one token to another.

  Args:
    tokenizer: of the documents.
    document: the document.
    start: the first token.
    end: the last token.
    config: the length that it was cut to.

  Returns:
    The first character and the one past the last, without white space around.
  """
  text = document_text(document)
  offsets = tokenizers.offsets(
    tokenizer, text, max_tokens=config.max_document_tokens
  )
  begin, stop = int(offsets[start, 0]), int(offsets[end, 1])
  piece = text[begin:stop]
  begin += len(piece) - len(piece.lstrip())
  return begin, begin + len(piece.strip())


def check_splits(dataset: types.Dataset, config: DataConfig) -> list[str]:
  """Names of the splits to evaluate.

  Raises:
    ValueError: if a split that the config names does not exist or the
      corpus is empty.
  """
  if not dataset.documents:
    raise ValueError(
      f'data.path {config.path!r} holds no documents. '
      'Set --config.data.path to data with a corpus.'
    )
  wanted = config.eval_splits or tuple(
    name for name in dataset.splits if name != config.train_split
  )
  for name in (config.train_split, *wanted):
    if not dataset.splits.get(name):
      raise ValueError(
        f'data has no questions in split {name!r}; there are '
        f'{", ".join(sorted(dataset.splits)) or "none"}. '
        'Set --config.data.train_split or --config.data.eval_splits.'
      )
  return list(wanted)

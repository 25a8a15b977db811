"""Tokenises questions and documents on the host and makes batches (Grain).

Batch number s depends only on the seed and s, so that a run resumes at a step
without saved pipeline state.
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
from rag_jax.data import text_files, text_io, tokenizers, words
from rag_jax.data.sources import base

POOL = 16  # batches per pool; questions are sorted by length within a pool


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
  """The data, and how much of each text is kept."""

  path: str = 'facts'  # 'facts', a file or folder, or 'tfds:NAME'
  # name of a format, such as 'beir' or 'files'; 'auto' detects it
  format: str = 'auto'
  # names of fields in your files, such as 'id=doc_id,text=body'
  fields: str = ''
  # if a document has no text, or a file is no text: 'error' or 'skip'
  on_empty: str = 'error'
  # if a question or a document that is named is not there: 'error' or 'skip'
  on_dangling: str = 'error'
  # whether all answers are regular expressions
  answer_patterns: bool = False
  # words per passage; 0 = whole documents; -1 = 120 for a folder of files,
  # otherwise whole documents
  passage_words: int = -1
  # words that neighbouring passages share; -1 = a sixth of a passage
  passage_overlap: int = -1
  # maximum size of a data file once unpacked, in GiB
  max_file_gib: float = text_files.MAX_GIB
  train_split: str = 'train'  # training split
  eval_splits: tuple[str, ...] = ()  # evaluation splits; () = all others
  # evaluation questions per split, evenly spaced; 0 = all
  eval_questions: int = 0
  vocab_size: int = 8000  # vocabulary size of the trained tokenizer
  max_query_tokens: int = 24  # maximum tokens per question
  max_document_tokens: int = 176  # maximum tokens per document
  max_answers: int = 3  # maximum answers per question
  # maximum tokens per answer; longer ones are no training targets
  max_answer_tokens: int = 12
  max_gold: int = 1  # maximum gold documents per question
  # training questions that keep their gold documents; 0 = all
  labelled_questions: int = 0
  tokenizer: str = ''  # published tokenizer; '' = trained on the data
  # maximum tokens per document for a published encoder
  max_vector_tokens: int = 192
  # maximum words per question for BM25 in the search; 0 = no BM25 there
  max_query_words: int = 0
  # stemmer and stop words of BM25; 'none' for a language that has none
  language: str = 'english'
  bm25_k1: float = 1.2  # BM25's k1, in the search and in the baseline
  bm25_b: float = 0.75  # BM25's b
  title_weight: int = 1  # repetitions of the title in BM25
  pair_weight: float = 0.0  # weight of adjacent word pairs in BM25

  @property
  def reading(self) -> dict[str, Any]:
    """The options of `formats.load`."""
    names = [field.name for field in dataclasses.fields(base.Options)]
    options = {name: getattr(self, name) for name in names}
    base.Options(**options)
    return options

  def __post_init__(self) -> None:
    """Raises a ValueError on a value out of range."""
    tokenizers.check_vocab_size(self.vocab_size)
    words.check_language(self.language)
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
    self.reading  # noqa: B018  # checks its fields
    counts = ('eval_questions', 'labelled_questions', 'max_query_words')
    for name in (*counts, 'title_weight', 'pair_weight'):
      if getattr(self, name) < 0:
        raise ValueError(
          f'data.{name} must be at least 0, got {getattr(self, name)}. '
          f'Set --config.data.{name}.'
        )


@flax.struct.dataclass
class Questions:
  """A split as arrays, one row per question."""

  query: np.ndarray  # int32[n, Q]
  answers: np.ndarray  # int32[n, M, A]
  gold: np.ndarray  # int32[n, G], -1 = none
  words: np.ndarray | None = None  # int32[n, W], whole words for BM25
  answerable: np.ndarray | None = None  # bool[n]; None = all answerable
  negative: np.ndarray | None = None  # int32[n], a hard negative; -1 = none
  # In the tokens of the reader, if it has its own tokenizer.
  reader_query: np.ndarray | None = None  # int32[n, Q']
  reader_answers: np.ndarray | None = None  # int32[n, M, A']


def train_tokenizer(
  dataset: types.Dataset, config: DataConfig
) -> hf_tokenizers.Tokenizer:
  """Trains a tokenizer on the documents and the training questions."""
  texts = [document_text(d) for d in dataset.documents]
  texts += [q.text for q in dataset.splits.get(config.train_split, ())]
  return tokenizers.train(texts, vocab_size=config.vocab_size)


def document_text(document: types.Document) -> str:
  """Title and text as tokenised; answer spans are spans of this text."""
  if not document.title:
    return document.text
  if not text_io.has_text(document.text):
    return document.title
  return f'{document.title} . {document.text}'


def encode_documents(
  tokenizer: hf_tokenizers.Tokenizer,
  documents: Sequence[types.Document],
  config: DataConfig,
) -> tokenizers.Encoded:
  """Tokenises documents: int32[N, P], and how many were truncated."""
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
    tokenizer: the tokenizer of the documents.
    questions: the questions of a split.
    rows: document id -> row in the corpus.
    config: maximum lengths.
    vocabulary: the words of the BM25 index, if there is one.

  Returns:
    The split as arrays. An answer longer than `max_answer_tokens` is all
    padding: it is no training target, but evaluation still accepts it.
  """
  count = len(questions)
  texts = [q.text for q in questions]
  query = tokenizers.encode(
    tokenizer,
    texts,
    max_tokens=config.max_query_tokens,
    with_special_tokens=True,
  ).tokens
  answers = tokenizers.encode_targets(
    tokenizer,
    [question.answers for question in questions],
    max_answers=config.max_answers,
    max_tokens=config.max_answer_tokens,
  )
  gold = np.full((count, config.max_gold), -1, np.int32)
  for i, question in enumerate(questions):
    for j, name in enumerate(question.document_ids[: config.max_gold]):
      gold[i, j] = rows.get(name, -1)  # -1 = deleted from the index
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
  """The training questions; only `labelled_questions` keep gold documents.

  The labelled questions are spread evenly over the questions with gold
  documents. All questions keep their answers.
  """
  questions = dataset.splits.get(config.train_split, ())
  if not config.labelled_questions:
    return questions
  rows = [i for i, question in enumerate(questions) if question.document_ids]
  kept = set(spread(rows, config.labelled_questions))
  return [
    question if i in kept else dataclasses.replace(question, document_ids=())
    for i, question in enumerate(questions)
  ]


def spread(rows: Sequence[Any], count: int) -> Sequence[Any]:
  """Returns `count` of the rows at even distances; 0 returns all.

  Neighbouring questions often ask about the same page, so the first `count`
  questions of a split would not be a representative sample.

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
  """Infinite shuffled batches; element s is the batch of step s."""
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
  """Infinite shuffled batches, bucketed by document length.

  Questions are shuffled and cut into pools of `POOL` batches. Each pool is
  sorted by document length and its batches are shuffled. A batch thus has
  little padding, and batches differ between epochs.

  Args:
    questions: a split; questions without a gold document are dropped.
    lengths: int[N], tokens of each document.
    batch_size: B.
    seed: seed of the order.

  Returns:
    Element s is (batch, tokens of its longest gold or hard negative document);
    it depends only on the seed and s.
  """
  gold = questions.gold
  documents = gold
  if questions.negative is not None:
    documents = np.column_stack([gold, questions.negative])
  longest = np.where(documents >= 0, lengths[documents], 0).max(axis=1)
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
    rows = rows[np.argsort(longest[rows], kind='stable')]
    rows = rows.reshape(-1, batch_size)
    order = np.random.default_rng((seed, pool)).permutation(len(rows))
    rows = rows[order[place]]
    return take(questions, rows), int(longest[rows].max())

  return grain.MapDataset.range(sys.maxsize).map(pick)


def eval_batches(
  questions: Questions, *, batch_size: int
) -> Iterator[types.Batch]:
  """Yields every question once, in order; the last batch is padded."""
  count = len(questions.query)
  for start in range(0, count, batch_size):
    rows = np.arange(start, start + batch_size)
    batch = take(questions, np.minimum(rows, count - 1))
    yield dataclasses.replace(batch, where=jnp.asarray(rows < count))


def keep(questions: Questions, rows: np.ndarray) -> Questions:
  """Selects rows of a split."""
  return jax.tree.map(lambda x: x[rows], questions)


def take(questions: Questions, rows: np.ndarray) -> types.Batch:
  """Selects rows of a split as a batch."""
  selected = jax.tree.map(jnp.asarray, keep(questions, rows))
  where = jnp.ones(len(rows), bool)
  return types.Batch(where=where, **vars(selected))


def span(
  tokenizer: hf_tokenizers.Tokenizer,
  document: types.Document,
  start: int,
  end: int,
  config: DataConfig,
) -> tuple[int, int]:
  """Converts a token span to a character span of `document_text`.

  Args:
    tokenizer: the tokenizer of the documents.
    document: the document.
    start: first token of the span.
    end: last token of the span.
    config: maximum length of a document.

  Returns:
    The first character and one past the last, surrounding white space removed.
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
  """Returns the names of the splits to evaluate.

  These are `eval_splits`, or else all but the training split, or else that one,
  if there is no other; none if the data has no questions.

  Raises:
    ValueError: if the corpus is empty or one of `eval_splits` has no questions.
  """
  if not dataset.documents:
    raise ValueError(
      f'data.path {config.path!r} holds no documents. '
      'Set --config.data.path to data with a corpus.'
    )
  for name in config.eval_splits:
    if not dataset.splits.get(name):
      raise ValueError(
        f'data has no questions in split {name!r}; there are '
        f'{", ".join(sorted(dataset.splits)) or "none"}. '
        'Set --config.data.train_split or --config.data.eval_splits.'
      )
  filled = [name for name, questions in dataset.splits.items() if questions]
  others = [name for name in filled if name != config.train_split]
  return list(config.eval_splits) or others or filled


def check_training(dataset: types.Dataset, config: DataConfig) -> None:
  """Raises a ValueError if the training split has no questions."""
  name = config.train_split
  if not dataset.splits.get(name):
    raise ValueError(
      f'data has no questions in split {name!r} to train on; there are '
      f'{", ".join(sorted(dataset.splits)) or "none"}. '
      'Set --config.data.train_split, or search without training by '
      '--config=zero_shot.'
    )

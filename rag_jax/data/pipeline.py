"""The configuration of the data, documents as tokens, and the splits used."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import tokenizers as hf_tokenizers

from rag_jax import types
from rag_jax.data import encoder_input, text_files, text_io, tokenizers, words
from rag_jax.data.sources import base


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
  """The data, and how much of each text is kept."""

  # 'facts', 'facts_pairs', a file or folder, or 'tfds:NAME'
  path: str = 'facts'
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
  # evaluation splits; () = all but those of training and calibration
  eval_splits: tuple[str, ...] = ()
  # held-out split that fits the calibrator of answers, if the data has it
  calibration_split: str = 'calibration'
  # evaluation questions per split, evenly spaced; 0 = all
  eval_questions: int = 0
  vocab_size: int = 8000  # vocabulary size of the trained tokenizer
  # maximum tokens per training question; 0 = as many as the encoder takes
  max_query_tokens: int = 0
  max_document_tokens: int = 176  # maximum tokens per document
  # whether tokens of documents stay in a memory-mapped file of the host
  host_tokens: bool = False
  max_answers: int = 3  # maximum answers per training question
  # maximum tokens per answer; longer ones are no training targets
  max_answer_tokens: int = 12
  # maximum gold documents per training question; 0 = all, up to 32
  max_gold: int = 0
  # training questions that keep their gold documents; 0 = all
  labelled_questions: int = 0
  tokenizer: str = ''  # published tokenizer; '' = trained on the data
  # maximum tokens of a document's vector; 0 = what the encoder takes, up to 512
  max_vector_tokens: int = 0
  # text before questions for a published encoder; 'auto' = as its folder says
  query_prompt: str = encoder_input.AUTO
  # text before documents for a published encoder; 'auto' = as its folder says
  document_prompt: str = encoder_input.AUTO
  lexicon: bool = False  # whether search and ranker use BM25 of whole words
  # whether generated questions are further keys of a document in the lexicon
  question_keys: bool = False
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
    for name in ('max_document_tokens', 'max_answers', 'max_answer_tokens'):
      if getattr(self, name) < 1:
        raise ValueError(
          f'data.{name} must be at least 1, got {getattr(self, name)}. '
          f'Set --config.data.{name}.'
        )
    self.reading  # noqa: B018  # checks its fields
    counts = ('eval_questions', 'labelled_questions', 'max_query_tokens')
    for name in (*counts, 'max_gold', 'title_weight', 'pair_weight'):
      if getattr(self, name) < 0:
        raise ValueError(
          f'data.{name} must be at least 0, got {getattr(self, name)}. '
          f'Set --config.data.{name}.'
        )


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


def truncation_note(
  encoded: tokenizers.Encoded,
  documents: Sequence[types.Document],
  config: DataConfig,
) -> str:
  """The note on documents of `encode_documents` that lose their end, or ''."""
  if not encoded.truncated:
    return ''
  remedy = '--config.data.passage_words=120 cuts documents into passages'
  if any(document.parent for document in documents):
    remedy = 'a smaller --config.data.passage_words makes passages shorter'
  return (
    f'{encoded.truncated} of {len(documents)} documents are truncated to '
    f'{config.max_document_tokens} tokens (--config.data.max_document_tokens); '
    f'{remedy} instead.'
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

  These are `eval_splits`, or else all but those of training and calibration, or
  else that of calibration, or else that of training; none if the data has no
  questions.

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
        'Set --config.data.train_split or --config.data.eval_splits, such as '
        "--config.data.eval_splits=\"('dev','test')\"."
      )
  filled = [name for name, questions in dataset.splits.items() if questions]
  held_out = [name for name in filled if name != config.train_split]
  others = [name for name in held_out if name != config.calibration_split]
  return list(config.eval_splits) or others or held_out or filled


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

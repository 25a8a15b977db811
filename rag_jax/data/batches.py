"""Questions as arrays, and batches of them (Grain).

Batch number s depends only on the seed and s, so that a run resumes at a step
without saved pipeline state. Questions are whole: a batch is as wide as its
longest question, in the steps of `widths`.
"""

import dataclasses
import sys
from collections.abc import Iterator, Sequence

import flax.struct
import grain
import jax
import jax.numpy as jnp
import numpy as np
import tokenizers as hf_tokenizers

from rag_jax import types
from rag_jax.data import encoder_input, pipeline, tokenizers, widths, words

POOL = 16  # batches per pool; questions are sorted by length within a pool
MOST_GOLD = (
  32  # gold documents of a training question, if no other number is set
)
_CHUNK = 4096  # questions that are tokenised at a time


@flax.struct.dataclass
class Questions:
  """A split as arrays, one row per question."""

  query: np.ndarray  # int32[n, Q]
  answers: np.ndarray  # int32[n, M, A]
  gold: np.ndarray  # int32[n, G], -1 = none
  cut: np.ndarray  # bool[n], questions that lost their end
  words: np.ndarray | None = None  # int32[n, W], whole words for BM25
  answerable: np.ndarray | None = None  # bool[n]; None = all answerable
  negative: np.ndarray | None = None  # int32[n], a hard negative; -1 = none
  # In the tokens of the reader, if it has its own tokenizer; without the prompt
  # of the encoder, if that has one.
  reader_query: np.ndarray | None = None  # int32[n, Q']
  reader_answers: np.ndarray | None = None  # int32[n, M, A']


def encode_questions(
  tokenizer: hf_tokenizers.Tokenizer,
  questions: Sequence[types.Question],
  rows: dict[str, int],
  config: pipeline.DataConfig,
  vocabulary: words.Vocabulary | None = None,
  *,
  max_tokens: int = widths.LIMIT,
  targets: bool = True,
) -> Questions:
  """Tokenises questions, with their answers and gold documents.

  Args:
    tokenizer: the tokenizer of the documents.
    questions: the questions of a split.
    rows: document id -> row in the corpus.
    config: maximum numbers of answers and gold documents, and their lengths.
    vocabulary: the words of the BM25 index, if there is one.
    max_tokens: longer questions are cut, and marked in `cut`.
    targets: whether to include answers and gold documents.

  Returns:
    The split as arrays, as wide as the longest question. An answer longer than
    `max_answer_tokens` is all padding: it is no training target, but evaluation
    still accepts it.
  """
  texts = [q.text for q in questions]
  prompt = encoder_input.prompt(config.query_prompt)
  query, cut = _encode_whole(tokenizer, texts, max_tokens, prompt)
  reader_query = None
  if prompt:  # it is for the encoder alone
    more = encoder_input.prompt_tokens(tokenizer, prompt)
    reader_query, _ = _encode_whole(tokenizer, texts, max_tokens - more)
  whole_words = None
  if vocabulary is not None:
    whole_words = words.encode(vocabulary, texts, max_words=widths.WORDS)
  asked = (
    questions if targets else [types.Question(id='', text='')] * len(texts)
  )
  return Questions(
    query=query,
    answers=tokenizers.encode_targets(
      tokenizer,
      [question.answers for question in asked],
      max_answers=config.max_answers,
      max_tokens=config.max_answer_tokens,
    ),
    gold=_gold(asked, rows, config),
    words=whole_words,
    reader_query=reader_query,
    answerable=np.asarray([q.answerable for q in questions], bool),
    cut=cut,
  )


def _encode_whole(
  tokenizer: hf_tokenizers.Tokenizer,
  texts: Sequence[str],
  max_tokens: int,
  prompt: str = '',
) -> tuple[np.ndarray, np.ndarray]:
  """Tokens as wide as the longest text, and which texts are cut."""
  parts, cut = [np.zeros((0, 1), np.int32)], [np.zeros(0, bool)]
  for start in range(0, len(texts), _CHUNK):
    chunk = texts[start : start + _CHUNK]
    found = tokenizers.encode(
      tokenizer,
      [prompt + text for text in chunk] if prompt else chunk,
      max_tokens=max_tokens,
      with_special_tokens=True,
    )
    parts.append(widths.trim(found.tokens))
    cut.append(found.cut)
  width = max(part.shape[1] for part in parts)
  return (
    np.concatenate([widths.fit(part, width) for part in parts]),
    np.concatenate(cut),
  )


def _gold(
  questions: Sequence[types.Question],
  rows: dict[str, int],
  config: pipeline.DataConfig,
) -> np.ndarray:
  """Rows of gold documents int32[n, G]; -1 = none, or deleted."""
  names = [list(dict.fromkeys(q.document_ids)) for q in questions]
  most = max(map(len, names), default=0)
  most = min(most, config.max_gold or MOST_GOLD)
  gold = np.full((len(questions), max(most, 1)), -1, np.int32)
  for row, own in zip(gold, names, strict=True):
    found = [rows.get(name, -1) for name in own[:most]]
    row[: len(found)] = found
  return gold


def notes(
  questions: Sequence[types.Question],
  encoded: Questions,
  config: pipeline.DataConfig,
) -> Iterator[str]:
  """Notes on what training does not use of its questions, with counts.

  Args:
    questions: the training questions.
    encoded: their arrays, from `encode_questions`.
    config: the configuration they were made with.
  """
  count = len(questions)
  if cut := int(encoded.cut.sum()):
    why = 'as many as the model takes'
    if config.max_query_tokens:
      why = '--config.data.max_query_tokens; 0 keeps what the model takes'
    yield (
      f'{cut} of {count} training questions are cut after '
      f'{encoded.query.shape[1]} tokens ({why}).'
    )
  most = config.max_answers
  if several := sum(len(q.answers) > most for q in questions):
    yield (
      f'{several} of {count} training questions have more than {most} answers; '
      'the first are training targets (--config.data.max_answers).'
    )
  given = sum(min(len(q.answers), most) for q in questions)
  kept = int((encoded.answers != types.PAD).any(axis=-1).sum())
  if given > kept:
    yield (
      f'{given - kept} of {given} answers are longer than '
      f'{config.max_answer_tokens} tokens, and no training targets '
      '(--config.data.max_answer_tokens).'
    )
  most = config.max_gold or MOST_GOLD
  if several := sum(len(set(q.document_ids)) > most for q in questions):
    yield (
      f'{several} of {count} training questions have more than {most} gold '
      'documents; training uses the first, evaluation all '
      '(--config.data.max_gold).'
    )


def train_batches(
  questions: Questions, *, batch_size: int, seed: int, prompt: int = 0
) -> grain.MapDataset:
  """Infinite shuffled batches; element s is the batch of step s.

  Args:
    questions: a split.
    batch_size: B.
    seed: seed of the order.
    prompt: tokens of the reader's prompt in `reader_query`.
  """
  narrow = _narrowing(questions, prompt)
  source = grain.MapDataset.source(np.arange(len(questions.query)))
  return (
    source.seed(seed)
    .shuffle()
    .repeat()
    .batch(batch_size)
    .map(lambda rows: take(narrow(keep(questions, np.asarray(rows)))))
  )


def reading_batches(
  questions: Questions,
  lengths: np.ndarray,
  *,
  batch_size: int,
  seed: int,
  prompt: int = 0,
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
    prompt: tokens of the reader's prompt in `reader_query`.

  Returns:
    Element s is (batch, tokens of its longest gold or hard negative document);
    it depends only on the seed and s.
  """
  narrow = _narrowing(questions, prompt)
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
    return take(narrow(keep(questions, rows))), int(longest[rows].max())

  return grain.MapDataset.range(sys.maxsize).map(pick)


def _narrowing(questions, prompt):
  """A function that removes padding of selected rows, as far as `widths`."""
  needed = widths.needed(questions, prompt=prompt)
  sizes = widths.rooms(int(needed.max(initial=1)), training=True)

  def narrow(selected):
    most = widths.needed(selected, prompt=prompt).max()
    room = sizes[np.searchsorted(sizes, most)]
    return widths.resize(selected, room, prompt=prompt, pads=False)

  return narrow


def eval_batches(
  questions: Questions, *, batch_size: int
) -> Iterator[types.Batch]:
  """Yields every question once, in order; the last batch is padded."""
  count = len(questions.query)
  for start in range(0, count, batch_size):
    rows = np.arange(start, min(start + batch_size, count))
    yield _padded(questions, rows, batch_size)


def asked_batches(
  questions: Questions, *, batch_size: int, max_tokens: int, prompt: int = 0
) -> Iterator[tuple[np.ndarray, types.Batch]]:
  """Yields every question once, by length: the rows and the batch with them.

  Each batch is as wide as its longest question needs, in few steps, for each of
  which a function is compiled.

  Args:
    questions: n questions.
    batch_size: B; a smaller batch is padded.
    max_tokens: maximum width of `query`.
    prompt: tokens of the reader's prompt in `reader_query`.
  """
  needed = widths.needed(questions, prompt=prompt)
  sizes = widths.rooms(int(needed.max(initial=1)))
  for room, rows in widths.groups(needed, sizes, batch_size):
    resized = widths.resize(
      keep(questions, rows), room, prompt=prompt, max_tokens=max_tokens
    )
    yield rows, _padded(resized, np.arange(len(rows)), batch_size)


def _padded(
  questions: Questions, rows: np.ndarray, batch_size: int
) -> types.Batch:
  """Rows as a batch, the last row repeated up to the batch size."""
  count = len(rows)
  where = np.arange(batch_size) < count
  padded = np.pad(rows, (0, batch_size - count), mode='edge')
  batch = take(keep(questions, padded))
  return dataclasses.replace(batch, where=jnp.asarray(where))


def keep(questions: Questions, rows: np.ndarray) -> Questions:
  """Selects rows of a split."""
  return jax.tree.map(lambda x: x[rows], questions)


def take(questions: Questions) -> types.Batch:
  """Questions as one batch."""
  fields = {
    field.name: jax.tree.map(jnp.asarray, getattr(questions, field.name))
    for field in dataclasses.fields(questions)
    if field.name != 'cut'
  }
  return types.Batch(where=jnp.ones(len(questions.query), bool), **fields)

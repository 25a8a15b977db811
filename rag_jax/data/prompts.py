"""Prompts for a language model: templates, and their tokens."""

import dataclasses
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tokenizers as hf

from rag_jax import types
from rag_jax.data import text_starts


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptTemplate:
  """A prompt template, and the form of the answer."""

  # {question} once; {passage} and {title}, unless closed book
  text: str
  answer: str = ' {answer}'  # the continuation
  end: str = '<|im_end|>'  # token that ends an answer

  def __post_init__(self) -> None:
    """Raises a ValueError if a placeholder is missing or repeated."""
    if self.text.count('{question}') != 1 or self.text.count('{passage}') > 1:
      raise ValueError(
        'PromptTemplate.text must hold {question} once and {passage} at most '
        f'once, got {self.text!r}. Correct the placeholders.'
      )
    if '{title}' in self.text and not self.has_passage:
      raise ValueError(
        'PromptTemplate.text must hold {passage} if it holds {title}, got '
        f'{self.text!r}. Add {{passage}} or remove {{title}}.'
      )
    if self.answer.count('{answer}') != 1:
      raise ValueError(
        'PromptTemplate.answer must hold {answer} once, got '
        f"{self.answer!r}. The default is ' {{answer}}'."
      )

  @property
  def has_passage(self) -> bool:
    """Whether the prompt contains a passage."""
    return '{passage}' in self.text


class Prompts(NamedTuple):
  """Tokens of prompts, K per question, padded on the right."""

  tokens: np.ndarray  # int32[B, K, S]
  where: np.ndarray  # bool[B, K, S], True = real
  copied: np.ndarray  # bool[B, K, S], True = passage token, may be copied
  truncated: int  # number of passages that were truncated


class Answers(NamedTuple):
  """Tokens of answers, each followed by the end token."""

  tokens: np.ndarray  # int32[B, A]
  where: np.ndarray  # bool[B, A], True = real
  truncated: int  # number of truncated answers, which lack the end token


def encode(
  tokenizer: hf.Tokenizer,
  template: PromptTemplate,
  questions: Sequence[str],
  passages: Sequence[Sequence[types.Document]] | None = None,
  *,
  max_tokens: int,
) -> Prompts:
  """Fills a template and tokenises it.

  Special tokens, such as the end of a turn, are removed from questions and
  passages.

  Args:
    tokenizer: the tokenizer of the language model.
    template: the prompt template.
    questions: B questions.
    passages: K documents per question; None for a closed-book template (K = 1).
    max_tokens: S; a passage is truncated so that its prompt fits.

  Returns:
    The prompts.

  Raises:
    ValueError: if the template has {passage} but `passages` is None or vice
      versa, or if a prompt without its passage is too long.

  Example:
    >>> tokenizer = hf.Tokenizer(hf.models.WordLevel({'where': 0, 'here': 1}))
    >>> tokenizer.pre_tokenizer = hf.pre_tokenizers.Whitespace()
    >>> template = PromptTemplate(text='{passage} {question}')
    >>> page = types.Document(id='a', text='here here here')
    >>> found = encode(tokenizer, template, ['where'], [[page]], max_tokens=3)
    >>> found.tokens.tolist(), found.copied.tolist(), found.truncated
    ([[[1, 1, 0]]], [[[True, True, False]]], 1)
  """
  if template.has_passage != (passages is not None):
    raise ValueError(
      'passages must be given if and only if the template has {passage}, got '
      f'{"none" if passages is None else "some"} for {template.text!r}. Pass '
      'another template.'
    )
  if passages is None:
    passages = [[types.Document(id='', text='')]] * len(questions)
  shape = (len(questions), max(map(len, passages), default=1), max_tokens)
  found = Prompts(
    np.zeros(shape, np.int32), np.zeros(shape, bool), np.zeros(shape, bool), 0
  )
  truncated = 0
  for i, (question, pages) in enumerate(zip(questions, passages, strict=True)):
    for k, page in enumerate(pages):
      ids, copied, cut = _fill(tokenizer, template, question, page, max_tokens)
      found.tokens[i, k, : len(ids)] = ids
      found.where[i, k, : len(ids)] = True
      found.copied[i, k, : len(ids)] = copied
      truncated += cut
  return found._replace(truncated=truncated)


def encode_answers(
  tokenizer: hf.Tokenizer,
  template: PromptTemplate,
  answers: Sequence[str],
  *,
  max_tokens: int,
) -> Answers:
  """Tokenises answers in the form of the template, with the end token.

  Args:
    tokenizer: the tokenizer of the language model.
    template: the prompt template.
    answers: B answers.
    max_tokens: A, the end token included.

  Returns:
    The answers.
  """
  tokens = np.zeros((len(answers), max_tokens), np.int32)
  where = np.zeros(tokens.shape, bool)
  end, truncated = end_token(tokenizer, template), 0
  for row, answer in enumerate(answers):
    plain = _remove_special_tokens(tokenizer, answer)
    text = template.answer.replace('{answer}', plain)
    ids = [*tokenizer.encode(text, add_special_tokens=False).ids, end]
    truncated += len(ids) > max_tokens
    ids = ids[:max_tokens]
    tokens[row, : len(ids)], where[row, : len(ids)] = ids, True
  return Answers(tokens, where, truncated)


def encode_passages(
  tokenizer: hf.Tokenizer,
  documents: Sequence[types.Document],
  *,
  template: PromptTemplate,
  max_tokens: int,
  shift: int = 0,
) -> tuple[np.ndarray, int]:
  """Tokenises the first half of each prompt, up to the end of its passage.

  A row of this followed by a row of `encode_questions` is a whole prompt, once
  padding is removed. One padding token before the passage marks its start.

  Args:
    tokenizer: the tokenizer of the language model.
    documents: N documents.
    template: the prompt template, with the question after the passage.
    max_tokens: P; longer passages are truncated.
    shift: added to each token; 1 where token 0 is text and no padding.

  Returns:
    int32[N, P], 0 = padding; and the number of truncated passages.

  Raises:
    ValueError: if the template has the question before the passage, or
      `max_tokens` leaves no room for a passage.

  Example:
    >>> names = ['<pad>', 'read', 'here', 'who']
    >>> vocabulary = {name: i for i, name in enumerate(names)}
    >>> tokenizer = hf.Tokenizer(hf.models.WordLevel(vocabulary))
    >>> tokenizer.pre_tokenizer = hf.pre_tokenizers.Whitespace()
    >>> template = PromptTemplate(text='read {passage} {question}')
    >>> page = types.Document(id='a', text='here here here')
    >>> options = {'template': template, 'max_tokens': 5}
    >>> tokens, truncated = encode_passages(tokenizer, [page], **options)
    >>> tokens.tolist(), truncated
    ([[1, 0, 2, 2, 2]], 0)
    >>> encode_questions(tokenizer, ['who'], **options).tolist()
    [[3, 0, 0, 0, 0]]
  """
  before, _ = _split_at_passage(template)
  begin = text_starts.start_tokens(tokenizer)
  room = max_tokens - 1 - len(begin)
  tokens = np.zeros((len(documents), max_tokens), np.int32)
  truncated = 0
  for row, page in zip(tokens, documents, strict=True):
    title = _remove_special_tokens(tokenizer, page.title)
    text = _remove_special_tokens(tokenizer, page.text)
    parts = before.format(title=title), text, ''
    ids, inside, cut = _fit(tokenizer, parts, room, 'passage', page.id)
    ids, inside = begin + ids, [False] * len(begin) + inside
    first = inside.index(True) if True in inside else len(ids)
    ids = [token + shift for token in ids]
    row[:first], row[first + 1 : len(ids) + 1] = ids[:first], ids[first:]
    truncated += cut
  return tokens, truncated


def encode_questions(
  tokenizer: hf.Tokenizer,
  questions: Sequence[str],
  *,
  template: PromptTemplate,
  max_tokens: int,
  shift: int = 0,
) -> np.ndarray:
  """Tokenises the second half of each prompt; see `encode_passages`.

  Args:
    tokenizer: the tokenizer of the language model.
    questions: n questions.
    template: the prompt template.
    max_tokens: Q; longer questions are truncated.
    shift: as in `encode_passages`.

  Returns:
    int32[n, Q], 0 = padding.

  Raises:
    ValueError: as `encode_passages`.
  """
  before, _, after = _split_at_passage(template)[1].partition('{question}')
  before, after = before.format(), after.format()
  tokens = np.zeros((len(questions), max_tokens), np.int32)
  for row, question in zip(tokens, questions, strict=True):
    parts = before, _remove_special_tokens(tokenizer, question), after
    ids, _, _ = _fit(tokenizer, parts, max_tokens, 'question', question)
    row[: len(ids)] = np.asarray(ids) + shift
  return tokens


def encode_targets(
  tokenizer: hf.Tokenizer,
  answers: Sequence[Sequence[str]],
  *,
  template: PromptTemplate,
  max_answers: int,
  max_tokens: int,
  shift: int = 0,
) -> np.ndarray:
  """Tokenises target answers in the form of the template, without end token.

  Args:
    tokenizer: the tokenizer of the language model.
    answers: the answers of each of n questions.
    template: the prompt template.
    max_answers: M; further answers are dropped.
    max_tokens: A; a longer answer is all padding, never truncated.
    shift: as in `encode_passages`.

  Returns:
    int32[n, M, A], 0 = padding.
  """
  tokens = np.zeros((len(answers), max_answers, max_tokens), np.int32)
  for i, accepted in enumerate(answers):
    for j, answer in enumerate(accepted[:max_answers]):
      plain = _remove_special_tokens(tokenizer, answer)
      text = template.answer.replace('{answer}', plain)
      ids = tokenizer.encode(text, add_special_tokens=False).ids
      if answer and len(ids) <= max_tokens:
        tokens[i, j, : len(ids)] = np.asarray(ids) + shift
  return tokens


def decode(
  tokenizer: hf.Tokenizer,
  template: PromptTemplate,
  tokens: Sequence[int] | np.ndarray,
) -> str:
  """Detokenises an answer: the first line before the end token."""
  ids = [int(token) for token in tokens]
  end = end_token(tokenizer, template)
  ids = ids[: ids.index(end)] if end in ids else ids
  lines = tokenizer.decode(ids, skip_special_tokens=True).strip().splitlines()
  return lines[0].strip() if lines else ''


def end_token(tokenizer: hf.Tokenizer, template: PromptTemplate) -> int:
  """The id of the token that ends an answer.

  Raises:
    ValueError: if the tokenizer has no such token.
  """
  token = tokenizer.token_to_id(template.end)
  if token is None:
    raise ValueError(
      f'PromptTemplate.end must be a token of the model, got '
      f"{template.end!r}. For SmolLM2 set end='<|im_end|>'."
    )
  return token


def _fill(tokenizer, template, question, page, max_tokens):
  """One prompt: its tokens, which are passage tokens, whether it was cut."""
  fields = {
    'question': _remove_special_tokens(tokenizer, question),
    'title': _remove_special_tokens(tokenizer, page.title),
  }
  before, _, after = template.text.partition('{passage}')
  before, after = before.format(**fields), after.format(**fields)
  passage = _remove_special_tokens(tokenizer, page.text)
  parts, begin = (before, passage, after), text_starts.start_tokens(tokenizer)
  room = max_tokens - len(begin)
  ids, inside, cut = _fit(tokenizer, parts, room, 'passage', question)
  return begin + ids, [False] * len(begin) + inside, cut


def _fit(tokenizer, parts, max_tokens, name, where):
  """Tokenises (before, middle, after) and truncates the middle to fit.

  Returns the tokens, which of them are in the middle, and whether it was cut.
  """
  before, middle, after = parts
  cut = False
  while True:
    text = before + middle + after
    encoding = tokenizer.encode(text, add_special_tokens=False)
    first, last = len(before), len(before) + len(middle)
    inside = [a < last and b > first for a, b in encoding.offsets]
    excess = len(encoding.ids) - max_tokens
    if excess <= 0:
      return encoding.ids, inside, cut
    starts = [
      a
      for (a, _), is_inside in zip(encoding.offsets, inside, strict=True)
      if is_inside
    ]
    if not starts:
      raise ValueError(
        f'max_tokens must hold a prompt without its {name}, got {max_tokens} '
        f'for {len(encoding.ids)} tokens: {where[:60]!r}. Increase max_tokens.'
      )
    middle = middle[: max(starts[-min(excess, len(starts))] - first, 0)]
    cut = True


def _split_at_passage(template):
  """The template text before and after its passage."""
  before, passage, after = template.text.partition('{passage}')
  if not passage or '{question}' in before or '{title}' in after:
    raise ValueError(
      'PromptTemplate.text must hold {title}, {passage} and {question} in this '
      f'order, got {template.text!r}. Pass chat_forms.template.'
    )
  return before, after


def _remove_special_tokens(tokenizer, text):
  """Removes the names of special tokens from a text."""
  added = tokenizer.get_added_tokens_decoder().values()
  names = [re.escape(token.content) for token in added if token.special]
  return re.sub('|'.join(names), '', text) if names else text

"""Questions and passages as prompts of a language model."""

import dataclasses
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tokenizers as hf

from rag_jax import types


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptTemplate:
  """What a language model is asked, and in what form it answers."""

  text: str  # with {question}; with {passage} and {title} unless closed book
  answer: str = ' {answer}'  # what then follows
  end: str = '<|im_end|>'  # token that ends an answer
  no_answer: str = 'unknown'  # the answer where there is none

  def __post_init__(self) -> None:
    """Raises a ValueError if a field has no place for what it needs."""
    if self.text.count('{question}') != 1 or self.text.count('{passage}') > 1:
      raise ValueError(
        'PromptTemplate.text must hold {question} once and {passage} at most '
        f'once, got {self.text!r}. Write them where they are to stand.'
      )
    if '{title}' in self.text and not self.has_passage:
      raise ValueError(
        'PromptTemplate.text must hold {passage} where it holds {title}, got '
        f'{self.text!r}. Add one or leave the other out.'
      )
    if self.answer.count('{answer}') != 1:
      raise ValueError(
        'PromptTemplate.answer must hold {answer} once, got '
        f"{self.answer!r}. The default is ' {{answer}}'."
      )

  @property
  def has_passage(self) -> bool:
    """Whether it reads a passage."""
    return '{passage}' in self.text


class Prompts(NamedTuple):
  """Prompts as tokens, K of each question, padded right."""

  tokens: np.ndarray  # int32[B, K, S]
  where: np.ndarray  # bool[B, K, S], True = real
  copied: np.ndarray  # bool[B, K, S], True = of the passage
  truncated: int  # how many passages were cut


class Answers(NamedTuple):
  """Answers as tokens, each with the end token last."""

  tokens: np.ndarray  # int32[B, A]
  where: np.ndarray  # bool[B, A], True = real
  truncated: int  # how many were cut, the end token with them


def encode(
  tokenizer: hf.Tokenizer,
  template: PromptTemplate,
  questions: Sequence[str],
  passages: Sequence[Sequence[types.Document]] | None = None,
  *,
  max_tokens: int,
) -> Prompts:
  """Fills a template and tokenises it.

  Tokens with a meaning of their own, such as the end of a turn, are taken out
  of questions and passages.

  Args:
    tokenizer: of the language model.
    template: the prompt.
    questions: B questions.
    passages: K documents a question; None where the template is closed book,
      and K is 1.
    max_tokens: S; a passage is cut so that its prompt fits.

  Returns:
    The prompts.

  Raises:
    ValueError: if passages are missing or not wanted, or a question alone is
      too long.

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
      f'passages must be given where the template has {{passage}}, got '
      f'{"none" if passages is None else "some"} for {template.text!r}. Take '
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
  """Tokenises answers in the form that the template gives them.

  Args:
    tokenizer: of the language model.
    template: the prompt.
    answers: B answers.
    max_tokens: A, the end token included.

  Returns:
    The answers.
  """
  tokens = np.zeros((len(answers), max_tokens), np.int32)
  where = np.zeros(tokens.shape, bool)
  end, truncated = end_token(tokenizer, template), 0
  for row, answer in enumerate(answers):
    text = template.answer.replace('{answer}', _plain(tokenizer, answer))
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
) -> tuple[np.ndarray, int]:
  """A prompt up to its passage, the passage included, for every document.

  With a row of `encode_questions` behind it this is a prompt, once padding is
  skipped. Padding stands in front of the passage too, to tell where it starts.

  Args:
    tokenizer: of the language model, whose token 0 is in no text.
    documents: N documents.
    template: the prompt, the question behind the passage.
    max_tokens: P; longer passages are cut.

  Returns:
    int32[N, P], 0 = padding; and how many passages were cut.

  Raises:
    ValueError: if the question is not behind the passage, or there is no room
      for a passage.

  Example:
    >>> names = ['<pad>', 'read', 'here', 'who']
    >>> vocabulary = {name: i for i, name in enumerate(names)}
    >>> tokenizer = hf.Tokenizer(hf.models.WordLevel(vocabulary))
    >>> tokenizer.pre_tokenizer = hf.pre_tokenizers.Whitespace()
    >>> template = PromptTemplate(text='read {passage} {question}')
    >>> page = types.Document(id='a', text='here here here')
    >>> own = {'template': template, 'max_tokens': 5}
    >>> tokens, truncated = encode_passages(tokenizer, [page], **own)
    >>> tokens.tolist(), truncated
    ([[1, 0, 2, 2, 2]], 0)
    >>> encode_questions(tokenizer, ['who'], **own).tolist()
    [[3, 0, 0, 0, 0]]
  """
  before, _ = _halves(template)
  tokens = np.zeros((len(documents), max_tokens), np.int32)
  truncated = 0
  for row, page in zip(tokens, documents, strict=True):
    start = before.format(title=_plain(tokenizer, page.title))
    text = _plain(tokenizer, page.text)
    parts = start, text, ''
    ids, own, cut = _fit(tokenizer, parts, max_tokens - 1, 'passage', page.id)
    first = own.index(True) if True in own else len(ids)
    row[:first], row[first + 1 : len(ids) + 1] = ids[:first], ids[first:]
    truncated += cut
  return tokens, truncated


def encode_questions(
  tokenizer: hf.Tokenizer,
  questions: Sequence[str],
  *,
  template: PromptTemplate,
  max_tokens: int,
) -> np.ndarray:
  """What stands behind the passage in a prompt; see `encode_passages`.

  Args:
    tokenizer: of the language model.
    questions: n questions.
    template: the prompt.
    max_tokens: Q; longer questions are cut.

  Returns:
    int32[n, Q], 0 = padding.

  Raises:
    ValueError: as `encode_passages`.
  """
  before, _, after = _halves(template)[1].partition('{question}')
  before, after = before.format(), after.format()
  tokens = np.zeros((len(questions), max_tokens), np.int32)
  for row, question in zip(tokens, questions, strict=True):
    parts = before, _plain(tokenizer, question), after
    ids, _, _ = _fit(tokenizer, parts, max_tokens, 'question', question)
    row[: len(ids)] = ids
  return tokens


def encode_targets(
  tokenizer: hf.Tokenizer,
  answers: Sequence[Sequence[str]],
  *,
  template: PromptTemplate,
  max_answers: int,
  max_tokens: int,
) -> np.ndarray:
  """The answers of questions in the template's form, without the end token.

  Args:
    tokenizer: of the language model.
    answers: the answers of each of n questions.
    template: the prompt.
    max_answers: M; those after are left out.
    max_tokens: A; an answer with more is zeros, since a part is no answer.

  Returns:
    int32[n, M, A], 0 = padding.
  """
  tokens = np.zeros((len(answers), max_answers, max_tokens), np.int32)
  for i, own in enumerate(answers):
    for j, answer in enumerate(own[:max_answers]):
      text = template.answer.replace('{answer}', _plain(tokenizer, answer))
      ids = tokenizer.encode(text, add_special_tokens=False).ids
      if answer and len(ids) <= max_tokens:
        tokens[i, j, : len(ids)] = ids
  return tokens


def decode(
  tokenizer: hf.Tokenizer,
  template: PromptTemplate,
  tokens: Sequence[int] | np.ndarray,
) -> str:
  """The answer in what a model wrote: its first line up to the end token."""
  ids = [int(token) for token in tokens]
  end = end_token(tokenizer, template)
  ids = ids[: ids.index(end)] if end in ids else ids
  lines = tokenizer.decode(ids, skip_special_tokens=True).strip().splitlines()
  return lines[0].strip() if lines else ''


def end_token(tokenizer: hf.Tokenizer, template: PromptTemplate) -> int:
  """The row of the token that ends an answer.

  Raises:
    ValueError: if the tokenizer does not have it.
  """
  token = tokenizer.token_to_id(template.end)
  if token is None:
    raise ValueError(
      f'PromptTemplate.end must be a token of the model, got '
      f"{template.end!r}. SmolLM2 has '<|im_end|>'."
    )
  return token


def _fill(tokenizer, template, question, page, max_tokens):
  """Tokens of one prompt, which are the passage's, and whether it was cut."""
  fields = {
    'question': _plain(tokenizer, question),
    'title': _plain(tokenizer, page.title),
  }
  before, _, after = template.text.partition('{passage}')
  before, after = before.format(**fields), after.format(**fields)
  passage = _plain(tokenizer, page.text)
  parts = before, passage, after
  return _fit(tokenizer, parts, max_tokens, 'passage', question)


def _fit(tokenizer, parts, max_tokens, name, where):
  """Tokens of a text whose middle is cut so that it fits.

  Returns the tokens, which of them are the middle's, and whether it was cut.
  """
  before, middle, after = parts
  cut = False
  while True:
    text = before + middle + after
    encoding = tokenizer.encode(text, add_special_tokens=False)
    first, last = len(before), len(before) + len(middle)
    own = [a < last and b > first for a, b in encoding.offsets]
    spare = len(encoding.ids) - max_tokens
    if spare <= 0:
      return encoding.ids, own, cut
    starts = [
      a for (a, _), is_own in zip(encoding.offsets, own, strict=True) if is_own
    ]
    if not starts:
      raise ValueError(
        f'max_tokens must hold a prompt without its {name}, got {max_tokens} '
        f'for {len(encoding.ids)} tokens: {where[:60]!r}. Allow more.'
      )
    middle = middle[: max(starts[-min(spare, len(starts))] - first, 0)]
    cut = True


def _halves(template):
  """The template in front of the passage, and behind it."""
  before, passage, after = template.text.partition('{passage}')
  if not passage or '{question}' in before or '{title}' in after:
    raise ValueError(
      'PromptTemplate.text must hold {title}, {passage} and {question} in this '
      f'order, got {template.text!r}. Take prompts.SMOLLM2.'
    )
  return before, after


def _plain(tokenizer, text):
  """A text without tokens that have a meaning of their own."""
  added = tokenizer.get_added_tokens_decoder().values()
  names = [re.escape(token.content) for token in added if token.special]
  return re.sub('|'.join(names), '', text) if names else text


# The better ones of five and of two on 24 training questions of Natural
# Questions with their gold passages.
SMOLLM2 = PromptTemplate(
  text=(
    '<|im_start|>system\nYou answer with the shortest possible phrase copied '
    'from the passage.<|im_end|>\n'
    '<|im_start|>user\nPassage: {title}: {passage}\n\n'
    'Question: {question}?<|im_end|>\n<|im_start|>assistant\nAnswer:'
  )
)
SMOLLM2_CLOSED_BOOK = PromptTemplate(
  text=(
    '<|im_start|>system\nYou answer questions in a few words.<|im_end|>\n'
    '<|im_start|>user\n'
    'Question: {question}?<|im_end|>\n<|im_start|>assistant\nAnswer:'
  )
)

"""Answers to typed questions, as text to show or as JSON."""

import io
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

from rag_jax import answers, console
from rag_jax import system as systems
from rag_jax.data import text_io

SHOWN = 5  # documents listed with an answer
PROMPT = 'question> '
BATCH = 64  # maximum questions that are answered together
MAX_BYTES = 100_000  # of a question; the rest of a longer line is dropped
_PIECE = 65_536  # bytes read at once


def loop(
  system: systems.System, question: str | None = None, *, as_json: bool = False
) -> None:
  """Prints the answer to a question, or to every line of standard input.

  Lines that arrive together are answered together. A terminal shows a prompt. A
  line that is too long is skipped, and bytes that are not text are replaced,
  each with a note on standard error.

  Args:
    system: from `rag_jax.load`.
    question: the question; None reads standard input.
    as_json: whether to print each answer as a line of JSON.

  Raises:
    ValueError: if there is no question and standard input is closed.
  """
  if question is None and sys.stdin is None:
    raise ValueError(
      'standard input must be open, got a closed one. Give --question, or '
      'questions by a pipe or a file.'
    )
  batches = typed(sys.stdin) if question is None else [[question]]
  if isinstance(sys.stdout, io.TextIOWrapper):
    # A character that the terminal cannot show does not end the session.
    sys.stdout.reconfigure(errors='backslashreplace')
  for answer in replies(system, batches):
    if as_json:
      print(json.dumps(answer.to_dict(), ensure_ascii=False), flush=True)
    else:
      print(show(answer), end='\n\n', flush=True)


def replies(
  system: systems.System, batches: Iterable[Sequence[str]]
) -> Iterator[answers.Answer]:
  """Yields the answer to each question; skips blank ones.

  Args:
    system: from `rag_jax.load`.
    batches: lists of questions, each answered in one call.
  """
  for batch in batches:
    questions = [text.strip() for text in batch if text_io.has_text(text)]
    if questions:
      yield from system.ask(questions)


def show(answer: answers.Answer) -> str:
  """Formats one answer with its documents and their weights."""
  lines = [f'question  {answer.question}']
  lines += [f'note      {note}' for note in answer.notes]
  if answer.document is None:
    lines.append('answer    none; no reader was trained')
  elif answer.abstained:
    lines.append(f'answer    none; the best had {_trust(answer)}')
  elif answer.cited:
    lines.append(f'answer    {answer.text}   ({_trust(answer)})')
    lines += [
      f'{f"[{number}]":<9} {document.id}  {document.title}'
      for number, document in enumerate(answer.cited, 1)
    ]
  else:
    source = answer.document
    lines += [
      f'answer    {answer.text}   ({_trust(answer)})',
      f'from      {source.title or source.id}: '
      f'{_around(source.text, answer.text)}',
    ]
  lines.append('weight    document')
  for candidate in answer.candidates[:SHOWN]:
    document = candidate.document
    lines.append(f'  {candidate.weight:.3f}   {document.id}  {document.title}')
  return '\n'.join(lines)


def _trust(answer: answers.Answer) -> str:
  """The score of an answer, or its probability if there is no score."""
  if answer.score is None:
    return f'probability {answer.probability:.2f}'
  covered = '' if not answer.certified else ', certified'
  return f'score {answer.score:.2f}{covered}'


def typed(stream: TextIO) -> Iterator[list[str]]:
  """Yields the lines of a stream in lists of those that arrived together.

  Args:
    stream: such as `sys.stdin`; a terminal gets a prompt for every line.

  Yields:
    1 to `BATCH` lines.
  """
  if not hasattr(stream, 'buffer'):  # a notebook's, or another that is no file
    yield from ([line] for line in stream)
    return
  if not stream.isatty():
    yield from _batches(stream)
    return
  print('Type a question, or end with ctrl-D.', file=sys.stderr)
  for number in itertools.count(1):
    print(PROMPT, end='', file=sys.stderr, flush=True)
    data = stream.buffer.readline()
    if not data:
      print(file=sys.stderr)
      return
    yield _questions([data], number, stream.encoding)


def _batches(stream: TextIO) -> Iterator[list[str]]:
  """Yields the lines of a pipe or a file as they arrive."""
  number, rest = 1, b''
  while True:
    # All that is there; waits only if there is nothing. BinaryIO lacks `read1`.
    piece = stream.buffer.read1(_PIECE)  # type: ignore[attr-defined]
    *lines, rest = (rest + piece).split(b'\n')
    rest = rest[: MAX_BYTES + 1]
    if not piece and rest:
      lines, rest = [rest], b''
    for start in range(0, len(lines), BATCH):
      batch = lines[start : start + BATCH]
      yield _questions(batch, number, stream.encoding)
      number += len(batch)
    if not piece:
      return


def _questions(lines: list[bytes], first: int, encoding: str) -> list[str]:
  """Lines as text, without those that are too long; says what is wrong."""
  questions = []
  for number, data in enumerate(lines, first):
    if len(data) > MAX_BYTES:
      _note(f'line {number} has more than {MAX_BYTES:,} bytes, and is skipped')
      continue
    try:
      text = data.decode(encoding)
    except UnicodeDecodeError:
      text = data.decode(encoding, 'replace')
      _note(f'line {number} is not {encoding}; its wrong bytes are replaced')
    questions.append(text.removeprefix('\ufeff'))
  return questions


def _note(text: str) -> None:
  console.note(f'{text}.')


def _around(text: str, answer: str, *, width: int = 90) -> str:
  """The answer with some characters of its context."""
  place = max(text.find(answer), 0)
  start = max(place - width // 2, 0)
  piece = text[start : place + len(answer) + width // 2]
  left = '...' if start else ''
  right = '...' if start + len(piece) < len(text) else ''
  return f'{left}{piece}{right}'.replace('\n', ' ')

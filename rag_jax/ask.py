"""Answers to typed questions, as text to show or as JSON."""

import json
import sys
from collections.abc import Iterable, Iterator

from rag_jax import answers
from rag_jax import system as systems

SHOWN = 5  # documents listed with an answer
PROMPT = 'question> '


def loop(
  system: systems.System, question: str | None = None, *, as_json: bool = False
) -> None:
  """Prints the answer to a question, or to every line of standard input.

  A terminal shows a prompt.

  Args:
    system: from `rag_jax.load`.
    question: the question; None reads standard input.
    as_json: whether to print each answer as a line of JSON.
  """
  questions = _typed() if question is None else [question]
  for answer in replies(system, questions):
    if as_json:
      print(json.dumps(answer.to_dict(), ensure_ascii=False), flush=True)
    else:
      print(show(answer), end='\n\n', flush=True)


def replies(
  system: systems.System, questions: Iterable[str]
) -> Iterator[answers.Answer]:
  """Yields the answer to each question; skips blank ones.

  Args:
    system: from `rag_jax.load`.
    questions: questions as text.
  """
  for question in questions:
    if question.strip():
      yield system.ask([question.strip()])[0]


def show(answer: answers.Answer) -> str:
  """Formats one answer with its documents and their weights."""
  lines = [f'question  {answer.question}']
  chance = f'{answer.probability:.2f}'
  if answer.document is None:
    lines.append('answer    none; no reader was trained')
  elif answer.abstained:
    lines.append(f'answer    none; the best had probability {chance}')
  else:
    source = answer.document
    lines += [
      f'answer    {answer.text}   (probability {chance})',
      f'from      {source.title or source.id}: '
      f'{_around(source.text, answer.text)}',
    ]
  lines.append('weight    document')
  for candidate in answer.candidates[:SHOWN]:
    document = candidate.document
    lines.append(f'  {candidate.weight:.3f}   {document.id}  {document.title}')
  return '\n'.join(lines)


def _typed() -> Iterator[str]:
  """Yields lines of standard input, with a prompt on a terminal."""
  if not sys.stdin.isatty():
    yield from sys.stdin
    return
  print('Type a question, or end with ctrl-D.', file=sys.stderr)
  while True:
    print(PROMPT, end='', file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    if not line:
      print(file=sys.stderr)
      return
    yield line


def _around(text: str, answer: str, *, width: int = 90) -> str:
  """The answer with some characters of its context."""
  place = max(text.find(answer), 0)
  start = max(place - width // 2, 0)
  piece = text[start : place + len(answer) + width // 2]
  left = '...' if start else ''
  right = '...' if start + len(piece) < len(text) else ''
  return f'{left}{piece}{right}'.replace('\n', ' ')

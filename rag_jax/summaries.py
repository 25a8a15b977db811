"""Measures of answers of several sentences, beside two baselines.

The rows are those of the system, of the same reader with no document to read,
and of the first sentences of the document with the largest weight. Support is
exact if the data lists what each document states, else it is that of
`grounding.supports`.
"""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from rag_jax import answers, grounding, measures, replies, types
from rag_jax import system as systems
from rag_jax.ops import summary_metrics, text_metrics

WITHOUT, LEAD = 'without retrieval', 'lead sentences'
LEAD_SIZE = 3  # sentences of the baseline
ROUGE: dict[str, str | int] = {'ROUGE-1': 1, 'ROUGE-2': 2, 'ROUGE-Lsum': 'Lsum'}


def supporter(
  claims: Sequence[types.Claim], *, share: float, language: str
) -> summary_metrics.Supports:
  """The function (sentence, documents) -> whether they support it.

  With claims, a document supports a sentence that states one of its claims or
  that it contains word for word.

  Args:
    claims: all that the documents state; empty = unknown.
    share: for `grounding.supports`, without claims.
    language: of the documents.
  """
  if not claims:
    return lambda sentence, documents: grounding.supports(
      sentence, documents, share=share, language=language
    )
  own = collections.defaultdict(list)
  for claim in claims:
    own[claim.document_id].append(claim)

  def exact(sentence, documents):
    return any(
      summary_metrics.states(sentence, claim)
      for document in documents
      for claim in own[document.source]
    ) or any(grounding.contains(document, sentence) for document in documents)

  return exact


def lead(document: types.Document) -> str:
  """The first sentences of a document, each citing document 1."""
  sentences = summary_metrics.parse(document.text)[:LEAD_SIZE]
  return ' '.join(f'{sentence.text} [1]' for sentence in sentences)


def plain(
  questions: Sequence[types.Question], texts: Sequence[str | None]
) -> tuple[list[types.Question], list[str | None]]:
  """Questions and answers without marks, for measures of the text alone."""
  asked = [
    dataclasses.replace(
      question, answers=tuple(map(summary_metrics.plain, question.answers))
    )
    for question in questions
  ]
  return asked, [None if t is None else summary_metrics.plain(t) for t in texts]


def measure(
  system: systems.System,
  questions: Sequence[types.Question],
  found: Any,
  given: Sequence[answers.Answer],
  unread: Sequence[str],
  claims: Sequence[types.Claim],
  *,
  name: str,
) -> measures.Values:
  """Measures of each question, of the system and the baselines.

  Args:
    system: a system whose reader cites.
    questions: n questions.
    found: its answers as arrays, on the host.
    given: its answers as they are given.
    unread: what its reader writes without a document.
    claims: all that the documents state; empty = unknown.
    name: of the row of the system.
  """
  config = system.config
  supports = supporter(
    claims, share=config.reader.support or 1.0, language=config.data.language
  )
  rows: dict[str, list[dict[str, float]]] = {name: [], LEAD: [], WITHOUT: []}
  for row, question in enumerate(questions):
    read = replies.read(config, found, row, system.documents)
    answer = given[row]
    cited = [*answer.cited, *(d for d in read if d not in answer.cited)]
    rows[name].append(of_text(question, answer.text, cited, supports))
    rows[LEAD].append(of_text(question, lead(read[0]), read[:1], supports))
    rows[WITHOUT].append(of_text(question, unread[row]))
  return {
    (system_name, key): np.asarray([values[key] for values in own], float)
    for system_name, own in rows.items()
    for key in own[0]
  }


def of_text(
  question: types.Question,
  text: str,
  documents: Sequence[types.Document] = (),
  supports: summary_metrics.Supports | None = None,
) -> dict[str, float]:
  """Measures of one text.

  Args:
    question: with references in `answers`, and with `claims`, if it has some.
    text: sentences with marks.
    documents: documents 1, 2, ... of the marks, then others that were read.
    supports: from `supporter`; None leaves citations out.

  Example:
    >>> asked = types.Question(
    ...   id='q', text='Tell me about cats.', answers=('Cats sleep. [1]',)
    ... )
    >>> found = of_text(asked, 'Cats sleep. [1] Cats eat. [1]')
    >>> round(found['ROUGE-1'], 3), found['sentences'], found['length']
    (0.667, 2.0, 4.0)
  """
  sentences = summary_metrics.parse(text)
  found = {}
  references = [lines(answer) for answer in question.answers]
  for key, kind in ROUGE.items():
    found[key] = np.nan
    if references and question.answerable:
      found[key] = text_metrics.rouge(
        lines(text), references, kind=kind, stem=True
      )['f1']
  found |= summary_metrics.claim_scores(text, question.claims)
  if supports is not None:
    found |= summary_metrics.citation_scores(sentences, documents, supports)
  found['sentences'] = float(len(sentences))
  found['length'] = float(len(summary_metrics.plain(text).split()))
  return found


def lines(text: str) -> str:
  """The sentences of a text as lines, without marks."""
  return '\n'.join(sentence.text for sentence in summary_metrics.parse(text))

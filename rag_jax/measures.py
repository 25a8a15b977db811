"""Measures of rankings and answers, per question.

Values are float64[n], one per question; NaN if the measure is undefined.
"""

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax import trec, types
from rag_jax.ops import answer_search, metrics, text_metrics

# (system, measure) -> float[n]; NaN if a question has no value.
Values = dict[tuple[str, str], np.ndarray]


def gold(
  questions: Sequence[types.Question],
  rows: Mapping[str, int],
  groups: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Gold documents of each question, with their relevance grades.

  Args:
    questions: n questions.
    rows: id -> row of each document in the corpus.
    groups: from `trec.groups`; gold passages then count as their document.

  Returns:
    int32[n, G] rows, -1 for padding and documents that are not in the corpus,
    and float32[n, G] grades.

  Example:
    >>> question = types.Question(
    ...   id='q', text='Who?', document_ids=('a', 'gone'), grades=(2, 1)
    ... )
    >>> found, grades = gold([question], {'a': 7})
    >>> found.tolist(), grades.tolist()
    ([[7, -1]], [[2.0, 1.0]])
  """
  most = max([1, *(len(q.document_ids) for q in questions)])
  found = np.full((len(questions), most), -1, np.int32)
  grades = np.ones((len(questions), most), np.float32)
  for i, question in enumerate(questions):
    for j, (name, grade) in enumerate(trec.grades(question).items()):
      row = rows.get(name, -1)
      if groups is not None and row >= 0:
        row = groups[row]
        if row in found[i]:  # another passage of the same document
          continue
      found[i, j], grades[i, j] = row, grade
  return found, grades


def retrieval(
  run: trec.Run,
  gold_rows: np.ndarray,
  grades: np.ndarray,
  *,
  depths: Sequence[int] = (1, 10),
  recall: int = 0,
) -> dict[str, np.ndarray]:
  """Measures of a ranking, as trec_eval computes them.

  Args:
    run: n rankings.
    gold_rows: int[n, G], from `gold`.
    grades: float[n, G], from `gold`.
    depths: values of k for Hits@k.
    recall: k of Recall@k; 0 leaves it out.

  Returns:
    Hits@k, MRR@10, nDCG@10, MAP, Recall@k, and R-precision if any question has
    several gold documents; NaN for questions without gold documents.

  Example:
    >>> run = trec.Run(
    ...   rows=np.array([[4, 7]]), scores=np.array([[2.0, 1.0]]),
    ...   where=np.array([[True, True]]),
    ... )
    >>> found = retrieval(run, np.array([[7]]), np.ones((1, 1)))
    >>> {name: round(float(value[0]), 3) for name, value in found.items()}
    {'Hits@1': 0.0, 'Hits@10': 1.0, 'MRR@10': 0.5, 'nDCG@10': 0.631, 'MAP': 0.5}
  """
  known = (gold_rows >= 0).sum(axis=1)
  found = _ranked(
    jnp.asarray(np.where(run.where, run.rows, -1)),
    jnp.asarray(gold_rows),
    jnp.asarray(grades),
    depths=tuple(depths),
    recall=recall,
    several=bool((known > 1).any()),
  )
  names = [f'Hits@{k}' for k in depths] + ['MRR@10', 'nDCG@10', 'MAP']
  names += sorted(found.keys() - set(names))
  return {
    name: np.where(known == 0, np.nan, np.asarray(found[name], np.float64))
    for name in names
  }


@functools.partial(jax.jit, static_argnames=('depths', 'recall', 'several'))
def _ranked(rows, gold_rows, grades, *, depths, recall, several):
  """`retrieval` on the device; moves masked documents to the end."""
  order = jnp.argsort(rows < 0, axis=1, stable=True)
  rows = jnp.take_along_axis(rows, order, axis=1)
  ranked = metrics.from_ranking(rows, gold_rows, grades=grades)
  values = {f'Hits@{k}': metrics.hits(*ranked, k=k) for k in depths}
  values['MRR@10'] = metrics.reciprocal_rank(*ranked, k=10)
  values['nDCG@10'] = metrics.ndcg(*ranked, k=10)
  values['MAP'] = metrics.average_precision(*ranked)
  if several:
    values['R-precision'] = metrics.r_precision(*ranked)
  if recall:
    values[f'Recall@{recall}'] = metrics.recall(*ranked, k=recall)
  return values


def gold_in_support(
  documents: np.ndarray, weights: np.ndarray, gold_rows: np.ndarray
) -> np.ndarray:
  """Whether all gold documents of a question have a positive weight.

  A reader reads only documents with weight, so a question that needs all of its
  gold documents can be answered from them only where this is 1.

  Args:
    documents: int[n, K], rows of documents, each at most once; -1 = none.
    weights: float[n, K], of the documents.
    gold_rows: int[n, G], from `gold`.

  Returns:
    float64[n]: 1.0 or 0.0; NaN for a question without gold documents.

  Example:
    >>> gold_in_support(
    ...   np.array([[4, 7, 9], [4, 7, 9]]),
    ...   np.array([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]),
    ...   np.array([[7, 4], [9, -1]]),
    ... )
    array([1., 0.])
  """
  same = gold_rows[:, :, None] == documents[:, None]  # [n, G, K]
  kept = (same & (weights > 0)[:, None]).any(2)
  known = gold_rows >= 0
  return np.where(known.any(1), (kept | ~known).all(1), np.nan)


def has_answer(
  run: trec.Run,
  questions: Sequence[types.Question],
  documents: Sequence[types.Document | None],
  *,
  depths: Sequence[int],
) -> dict[str, np.ndarray]:
  """Whether an answer occurs in the text of one of the first k documents.

  DPR's measure of retrieval where gold documents are unknown: the words of an
  answer occur in a row in the text, in any case; a pattern matches anywhere. A
  document that is only a title is searched by that.

  Args:
    run: n rankings of documents or passages.
    questions: n questions.
    documents: documents by row.
    depths: values of k.

  Returns:
    'has-answer@k' -> float64[n]; NaN for a question without answers.

  Example:
    >>> run = trec.Run(
    ...   rows=np.array([[1, 0]]), scores=np.array([[2.0, 1.0]]),
    ...   where=np.array([[True, True]]),
    ... )
    >>> asked = types.Question(id='q', text='When?', answers=('1969',))
    >>> documents = [types.Document(id=x, text=x) for x in ('In 1969.', 'No.')]
    >>> found = has_answer(run, [asked], documents, depths=(1, 2))
    >>> {name: value.tolist() for name, value in found.items()}
    {'has-answer@1': [0.0], 'has-answer@2': [1.0]}

  Reference:
    Karpukhin et al., Dense Passage Retrieval for Open-Domain Question
    Answering, 2020.
  """
  texts: dict[int, str] = {}
  first = np.full(len(questions), np.inf)
  for place, question in enumerate(questions):
    answers = [answer_search.words(answer) for answer in question.answers]
    if not any(answers) and not question.answer_patterns:
      first[place] = np.nan
      continue
    rows = run.rows[place][run.where[place]][: max(depths)]
    for rank, row in enumerate(rows.tolist(), 1):
      document = documents[row]
      if document is None:
        continue
      text = document.text.strip() or document.title
      if row not in texts:
        texts[row] = answer_search.words(text)
      if answer_search.holds(texts[row], answers) or any(
        answer_search.matches_pattern(pattern, text)
        for pattern in question.answer_patterns
      ):
        first[place] = rank
        break
  known = ~np.isnan(first)
  return {
    f'has-answer@{k}': np.where(known, first <= k, np.nan) for k in depths
  }


def valid_docids(candidates: types.Candidates, count: int) -> np.ndarray:
  """1.0 if all candidates of a question are distinct existing documents.

  Args:
    candidates: n rows of candidates; masked ones are ignored.
    count: number of documents in the corpus.

  Returns:
    float64[n], each 0.0 or 1.0.
  """
  shares = []
  for documents, where in zip(
    candidates.documents, candidates.where, strict=True
  ):
    real = documents[where]
    exist = bool(len(real)) and real.min() >= 0 and real.max() < count
    shares.append(float(exist and len(set(real.tolist())) == len(real)))
  return np.asarray(shares)


def answers(
  questions: Sequence[types.Question],
  texts: Sequence[str | None],
  *,
  written: bool = False,
  may_abstain: bool = False,
) -> dict[str, np.ndarray]:
  """Exact match and F1 of answers.

  For an unanswerable question, abstaining counts as correct. A question without
  gold answers in the data has no value. An answer that begins with a match of
  one of the question's `answer_patterns` is an exact match.

  Args:
    questions: n questions.
    texts: n answers; None = abstained.
    written: whether to add ROUGE-L, for generated answers.
    may_abstain: whether to add the fraction of answered questions.

  Example:
    >>> asked = types.Question(id='q', text='Who sleeps?', answers=('a cat',))
    >>> answers([asked], ['The cat'])
    {'EM': array([1.]), 'F1': array([1.])}
  """
  exact, overlap, longest = np.full((3, len(questions)), np.nan)
  for row, (question, given) in enumerate(zip(questions, texts, strict=True)):
    right = question.answers if question.answerable else ('',)
    if question.answer_patterns:
      exact[row] = any(
        answer_search.is_pattern(pattern, given or '')
        for pattern in question.answer_patterns
      )
    if right:
      text = given or ''
      is_right = text_metrics.exact_match(text, right)
      exact[row] = max(is_right, np.nan_to_num(exact[row]))
      overlap[row] = text_metrics.f1(text, right)
      if written:
        longest[row] = max(
          text_metrics.rouge(text, answer)['f1'] for answer in right
        )
  values = {'EM': exact, 'F1': overlap}
  if written:
    values['ROUGE-L'] = longest
  if may_abstain:
    values['answered'] = np.asarray([float(t is not None) for t in texts])
  return values

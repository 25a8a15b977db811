"""Makes a `Dataset` of what a reader found: checks, passages and notes."""

import collections
import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping

from rag_jax import types
from rag_jax.data import passages, text_io
from rag_jax.data.sources import base
from rag_jax.ops import answer_search

_WORDS = re.compile(r'[^\W_]+')


def finish(
  name: str, content: base.Content, options: base.Options
) -> types.Dataset:
  """Makes a `Dataset`: validates it, cuts passages and writes its notes.

  Args:
    name: the path as the user gave it.
    content: documents and questions; it contains all gold documents.
    options: what to do with documents without text, and the passages.

  Returns:
    The dataset with its notes.

  Raises:
    ValueError: for an empty corpus, a duplicate id, an invalid pattern or, with
      on_empty='error', a document without text and title.
  """
  documents, splits = content.documents, content.splits
  notes = list(content.notes)
  where = f'data.path {name!r}'
  _check_unique('document', (document.id for document in documents), where)
  for split, questions in splits.items():
    _check_unique('question', (q.id for q in questions), f'{where} {split}')
  splits = {split: list(questions) for split, questions in splits.items()}
  if options.answer_patterns:
    splits = _as_patterns(splits)
  _check_patterns(splits, where)
  kept = [d for d in documents if shows(d)]
  if len(kept) < len(documents):
    empty = [d.id for d in documents if not shows(d)]
    if options.on_empty == 'error':
      raise ValueError(
        f'document {empty[0]!r} has no text ({len(empty)} of '
        f'{len(documents)} in {where}). '
        'Set --config.data.on_empty=skip to skip such documents.'
      )
    notes.append(
      f'{_of(len(empty), len(documents), "documents")} have no text and are '
      'skipped.'
    )
    splits = _drop_gold(set(empty), splits, notes)
  if not kept:
    raise ValueError(
      f'{where} has an empty corpus: {len(documents)} documents, 0 with '
      'text. Set --config.data.path to data with documents.'
    )
  titles = sum(not text_io.has_text(document.text) for document in kept)
  if titles:
    notes.append(f'{_of(titles, len(kept), "documents")} have only a title.')
  whole = {document.id: document for document in kept}
  of_questions = [
    note
    for split, questions in splits.items()
    for note in _notes(split, questions, whole)
  ]
  words, overlap = options.passages(content.passage_words)
  if words:
    kept = cut(kept, content.sections, words=words, overlap=overlap)
    if len(kept) > len(whole):
      notes.append(
        f'{len(whole):,} documents are cut into {len(kept):,} passages of at '
        f'most {words} words (--config.data.passage_words) with an overlap of '
        f'{overlap} (--config.data.passage_overlap); a measure counts a '
        'document at its best passage.'
      )
      texts = {
        name: ''.join(part.text for part in own)
        for name, own in content.sections.items()
      }
      texts = {name: own.text for name, own in whole.items()} | texts
      splits = _gold_passages(kept, texts, splits, notes)
  return types.Dataset(
    documents=tuple(kept),
    splits={split: tuple(questions) for split, questions in splits.items()},
    notes=(*notes, *of_questions),
  )


def shows(document: types.Document) -> bool:
  """Whether a document has a text or at least a title."""
  return text_io.has_text(document.text) or text_io.has_text(document.title)


def cut(
  documents: Iterable[types.Document],
  sections: Mapping[str, tuple[base.Section, ...]],
  *,
  words: int,
  overlap: int,
) -> list[types.Document]:
  """Cuts documents into passages; short documents stay as they are.

  Args:
    documents: the documents.
    sections: as in `Content`.
    words: maximum words of a passage.
    overlap: words that neighbouring passages of a section share.

  Returns:
    Passages with `parent`, the id of their document, and its title or that of
    their section. Their ids are that of the document, '#' and a number from 1.

  Example:
    >>> [one, two] = cut(
    ...   [types.Document(id='a', title='T', text='Cats sleep. Dogs bark.')],
    ...   {}, words=3, overlap=0,
    ... )
    >>> two.id, two.title, two.text, two.parent
    ('a#2', 'T', 'Dogs bark.', 'a')
  """
  documents = list(documents)
  taken = {document.id for document in documents}
  found = []
  for document in documents:
    parts = [
      (section.title, section.text[start:end])
      for section in sections.get(
        document.id, (base.Section(document.title, document.text),)
      )
      for start, end in passages.cut(section.text, words=words, overlap=overlap)
      or [(0, 0)]  # a title alone
    ]
    if len(parts) == 1:
      found.append(document)
      continue
    for number, (title, text) in enumerate(parts, 1):
      name = f'{document.id}#{number}'
      while name in taken:
        name += '_'
      taken.add(name)
      found.append(
        dataclasses.replace(
          document, id=name, title=title, text=text, parent=document.id
        )
      )
  return found


def _gold_passages(
  documents: list[types.Document],
  texts: Mapping[str, str],
  splits: text_io.Splits,
  notes: list[str],
) -> text_io.Splits:
  """The gold passages of each question: those that hold an answer.

  If no passage of a gold document does, those are gold that share half of their
  text with an answer, or half of the answer; if there are none, all are.

  Args:
    documents: the passages.
    texts: id of a document before it was cut -> its text without headings.
    splits: questions whose gold documents are whole documents.
    notes: what is said of them is added here.
  """
  parts: dict[str, list[types.Document]] = collections.defaultdict(list)
  for document in documents:
    parts[document.source].append(document)
  holds = _holder(
    {d.id: dataclasses.replace(d, title='') for d in documents if d.parent}
  )
  places: dict[str, tuple[str, list[tuple[int, int]]]] = {}
  found: text_io.Splits = {}
  for split, questions in splits.items():
    found[split], unknown = [], 0
    for question in questions:
      names = question.document_ids
      grades = question.grades or (1,) * len(names)
      gold: dict[str, int] = {}
      everywhere = False
      for name, grade in zip(names, grades, strict=True):
        own = [d.id for d in parts[name]]
        good = own if len(own) == 1 else [d for d in own if holds(question, d)]
        if not good and question.answers:
          if name not in places:
            places[name] = _places(texts[name], parts[name])
          shared = _overlapping(question.answers, *places[name])
          good = [d for d, is_good in zip(own, shared, strict=True) if is_good]
        everywhere |= not good
        gold |= dict.fromkeys(good or own, grade)
      unknown += everywhere
      found[split].append(text_io.with_gold(question, gold))
    if unknown:
      what = f'questions in {split}'
      notes.append(
        f'{_of(unknown, len(questions), what)} have a gold document of which '
        'no passage holds an answer; all of its passages are gold.'
      )
  return found


def _places(
  text: str, parts: list[types.Document]
) -> tuple[str, list[tuple[int, int]]]:
  """A text without white space and punctuation, and its passages in it."""
  whole, found, start = _plain(text), [], 0
  for part in parts:
    words = _plain(part.text)
    start = max(whole.find(words, start), 0)
    found.append((start, start + len(words)))
  return whole, found


def _overlapping(
  answers: Iterable[str], text: str, places: list[tuple[int, int]]
) -> list[bool]:
  """Whether a passage and an answer share half of the shorter one."""
  spans = []
  for answer in answers:
    words = _plain(answer)
    at = text.find(words) if words else -1
    if at >= 0:
      spans.append((at, at + len(words)))
  return [
    any(
      2 * (min(end, stop) - max(start, begin)) >= min(end - start, stop - begin)
      for start, end in spans
    )
    for begin, stop in places
  ]


@functools.lru_cache(maxsize=1024)
def _plain(text: str) -> str:
  """A text without case, white space and punctuation."""
  return ''.join(_WORDS.findall(text.lower()))


def _holder(
  documents: Mapping[str, types.Document],
) -> Callable[[types.Question, str], bool]:
  """A function: (question, id of a document) -> whether it holds an answer.

  Case, punctuation and white space are ignored.
  """
  bodies: dict[str, tuple[str, str]] = {}

  def holds(question: types.Question, name: str) -> bool:
    if name not in bodies:
      document = documents[name]
      body = f'{document.title} . {document.text}'.lower()
      bodies[name] = body, _plain(body)
    plain, words = bodies[name]
    for answer in question.answers:
      wanted = _plain(answer)
      if wanted and wanted in words:
        return True
      if not wanted and answer.lower().strip() in plain:
        return True
    return any(
      answer_search.matches_pattern(pattern, documents[name].text)
      for pattern in question.answer_patterns
    )

  return holds


def _single_answers(question: types.Question) -> list[types.Question]:
  """The question with each of its answers alone."""
  return [
    dataclasses.replace(question, answers=(own,), answer_patterns=())
    for own in question.answers
  ] + [
    dataclasses.replace(question, answers=(), answer_patterns=(own,))
    for own in question.answer_patterns
  ]


def _as_patterns(splits: text_io.Splits) -> text_io.Splits:
  """The answers of all questions as regular expressions."""
  return {
    split: [
      dataclasses.replace(
        question,
        answers=(),
        answer_patterns=question.answer_patterns + question.answers,
      )
      for question in questions
    ]
    for split, questions in splits.items()
  }


def _check_patterns(splits: text_io.Splits, where: str) -> None:
  for split, questions in splits.items():
    for question in questions:
      for pattern in question.answer_patterns:
        try:
          answer_search.matches_pattern(pattern, '')
        except re.error as error:
          raise ValueError(
            f'{where}: question {question.id!r} in {split} has the answer '
            f'pattern {pattern!r}, which is no regular expression ({error}). '
            'Correct it, or give it as an answer.'
          ) from error


def _drop_gold(
  empty: set[str], splits: text_io.Splits, notes: list[str]
) -> text_io.Splits:
  """Removes skipped documents from the gold documents of all questions."""
  dropped = 0
  found: text_io.Splits = {}
  for split, questions in splits.items():
    found[split] = []
    for question in questions:
      names = question.document_ids
      grades = dict(
        zip(names, question.grades or [1] * len(names), strict=True)
      )
      gold = {name: grades[name] for name in names if name not in empty}
      dropped += len(names) - len(gold)
      found[split].append(text_io.with_gold(question, gold))
  if dropped:
    notes.append(f'{dropped:,} gold references to skipped documents removed.')
  return found


def _notes(
  split: str,
  questions: list[types.Question],
  documents: Mapping[str, types.Document],
) -> list[str]:
  """Notes on questions that lack a text, an answer or a gold document."""
  holds = _holder(documents)
  count: collections.Counter[str] = collections.Counter()
  for question in questions:
    gold = question.document_ids
    count['no text'] += not text_io.has_text(question.text)
    count['no gold'] += not gold
    single = _single_answers(question)
    count['no answer'] += not single
    if gold and single:
      found = [any(holds(own, name) for name in gold) for own in single]
      count['some absent'] += not all(found)
      count['all absent'] += not any(found)
  sentences = {
    'some absent': 'have an answer that occurs in none of their gold '
    f'documents; in {count["all absent"]:,} of them no answer does.',
    'no answer': 'have no answer.',
    'no gold': 'have no gold document.',
    'no text': 'have no text.',
  }
  what = f'questions in {split}'
  return [
    f'{_of(count[key], len(questions), what)} {sentence}'
    for key, sentence in sentences.items()
    if count[key]
  ]


def _of(part: int, whole: int, what: str) -> str:
  return f'{part:,} of {whole:,} {what}'


def _check_unique(what: str, names: Iterable[str], where: str) -> None:
  seen: set[str] = set()
  for name in names:
    if name in seen:
      raise text_io.duplicate(what, name, where)
    seen.add(name)

"""The data set of summaries against the fact tables and the documents."""

import collections
import re

import numpy as np
import pytest

from rag_jax import grounding
from rag_jax.data import fact_summaries, facts, formats, templates
from rag_jax.ops import summary_metrics


@pytest.fixture(scope='module')
def dataset():
  return formats.load('facts_summaries')


@pytest.fixture(scope='module')
def documents(dataset):
  return {document.id: document for document in dataset.documents}


def entities(dataset, split):
  """The documents that the questions of a split are about."""
  return {name for q in dataset.splits[split] for name in q.document_ids}


def test_documents_are_those_of_facts_and_splits_do_not_overlap(dataset):
  assert dataset.documents == facts.load().documents
  assert tuple(dataset.splits) == fact_summaries.SPLITS
  trained = entities(dataset, 'train')
  assert not trained & entities(dataset, 'test_entity')
  assert entities(dataset, 'test_phrasing') <= trained
  assert len(trained | entities(dataset, 'test_entity')) == len(
    dataset.documents
  )
  pairs = {
    split: [frozenset(q.document_ids) for q in own if len(q.document_ids) > 1]
    for split, own in dataset.splits.items()
  }
  assert not set(pairs['train']) & set(pairs['test_comparison'])
  new = [not pair <= trained for pair in pairs['test_comparison']]
  assert len(new) == 120 and sum(new) == 60
  texts = [q.text for own in dataset.splits.values() for q in own]
  assert len(set(texts)) > 0.99 * len(texts)
  for split, own in dataset.splits.items():
    assert len({q.id for q in own}) == len(own), split


def test_a_reference_states_each_claim_with_its_document(dataset):
  for questions in dataset.splits.values():
    for question in questions:
      if not question.answerable:
        assert not question.answers and not question.claims
        continue
      [reference] = question.answers
      sentences = summary_metrics.parse(reference)
      assert 1 < len(sentences) == len(question.claims)
      for sentence, claim in zip(sentences, question.claims, strict=True):
        [number] = sentence.citations
        assert question.document_ids[number - 1] == claim.document_id
        assert sentence.text == claim.statements[0]


def test_a_document_states_its_claims(dataset, documents):
  supported = []
  for claim in dataset.claims[::3]:
    document = documents[claim.document_id]
    supported.append(grounding.supports(claim.statements[0], [document]))
    assert any(
      grounding.contains(document, form) for form in claim.statements[1:]
    ), claim
  # A few documents say it in other words.
  assert 0.97 < np.mean(supported) < 1
  full = dataset.splits['test_comparison'][0]
  assert summary_metrics.claim_scores(full.answers[0], full.claims) == {
    'claim recall': 1,
    'claim precision': 1,
  }


def test_a_number_of_sentences_is_kept(dataset):
  numbers = {word: number for number, word in fact_summaries.NUMBERS.items()}
  found = collections.Counter()
  for question in dataset.splits['train']:
    if match := re.search(r'in (\w+) sentences', question.text):
      assert len(question.claims) <= numbers[match[1]]
      found[len(question.claims)] += 1
  assert set(found) == {2, 3, 4}


def test_claims_are_all_cells_of_the_tables(dataset):
  own = collections.Counter(c.document_id for c in dataset.claims)
  for kind in templates.OPENINGS:
    for row in facts.read_table(kind):
      cells = [
        row[relation]
        for table, relation in fact_summaries.SENTENCES
        if table == kind and row[relation]
      ]
      assert own[facts.document_id(kind, row)] == len(cells) >= 2


def test_unknown_things_are_in_no_document(dataset):
  texts = {split: set() for split in ('train', 'test_unknown_thing')}
  for split, found in texts.items():
    found |= {q.text for q in dataset.splits[split] if not q.answerable}
  assert len(texts['train']) == 600 and len(texts['test_unknown_thing']) == 120
  assert not texts['train'] & texts['test_unknown_thing']


def test_a_wrong_cell_is_not_supported(dataset, documents):
  """Another entity's value, of which no word is in the document."""
  wrong = right = 0
  by_document = collections.defaultdict(list)
  for claim in dataset.claims:
    by_document[claim.document_id].append(claim)
  names = [name for name in by_document if name.startswith('countries')]
  for one, other in zip(names, names[1:], strict=False):
    document = documents[one]
    ours, theirs = by_document[one][1], by_document[other][1]
    sentence = ours.statements[0].replace(ours.text, theirs.text)
    if grounding.contains(document, theirs.text):
      continue
    wrong += 1
    right += not grounding.supports(sentence, [document])
  assert right / wrong > 0.98

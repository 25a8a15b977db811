"""The evaluation of a reader with citations, from a folder to the results."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from rag_jax import config as configs
from rag_jax import model, per_question, summaries, types
from rag_jax import system as systems
from rag_jax import workdir as workdirs


@pytest.fixture(scope='module')
def prepared(tiny_values, tiny_folder, write_lines, tmp_path_factory):
  """An untrained run whose references are sentences with citations."""
  folder = tmp_path_factory.mktemp('cited')
  (folder / 'documents.jsonl').write_text(
    (tiny_folder / 'documents.jsonl').read_text()
  )
  for split in ('train', 'dev'):
    name = f'questions-{split}.jsonl'
    asked = map(json.loads, (tiny_folder / name).read_text().splitlines())
    write_lines(
      folder / name,
      [
        one | {'answers': [f'It weighs {one["answers"][0]} grams. [1]']}
        for one in asked
      ],
    )
  reader = tiny_values['reader'] | {'kind': 'fid', 'citations': True}
  data = tiny_values['data'] | {'path': str(folder), 'max_answer_tokens': 12}
  reader['max_answer_tokens'] = 12
  config = configs.build(tiny_values | {'data': data, 'reader': reader})
  return workdirs.open(config, tmp_path_factory.mktemp('run') / 'run')


def test_answers_are_measured_beside_the_baselines(prepared, monkeypatch):
  init = functools.partial(
    model.init,
    config=prepared.system.config.model,
    vocab_size=prepared.vocab_size,
  )
  system = prepared.trained(
    jax.jit(init)(jax.random.key(0), index=prepared.index)
  )
  dev = [
    dataclasses.replace(
      question,
      claims=(types.Claim(text=question.answers[0].split()[2]),),
    )
    for question in prepared.dataset.splits['dev']
  ]
  asked = {question.text: question for question in dev}
  answer = systems.System.answer

  def written(self, text, *args, **options):
    """Half of the questions get their reference, the others nothing."""
    found = answer(self, text, *args, **options)
    question = asked[text]
    if dev.index(question) % 2:
      return dataclasses.replace(found, text='', cited=(), abstained=True)
    document = self.documents[self.rows[question.document_ids[0]]]
    return dataclasses.replace(
      found, text=question.answers[0], cited=(document,), abstained=False
    )

  monkeypatch.setattr(systems.System, 'answer', written)
  found = per_question.measure(system, 'dev', dev, {})
  values = {name: np.nanmean(own) for name, own in found.values.items()}
  for metric, wanted in {
    'EM': 0.5,
    'ROUGE-L': 0.5,
    'ROUGE-2': 0.5,
    'claim recall': 0.5,
    'answered': 0.5,
    'sentences': 0.5,
    'citation recall': 1.0,
    'citation precision': 1.0,
    'no support': 0.0,
  }.items():
    assert values['answers', metric] == pytest.approx(wanted), metric
  # The lead of the best document of an untrained system, word for word.
  assert values[summaries.LEAD, 'citation precision'] == 1
  assert 0 < values[summaries.LEAD, 'ROUGE-1'] < 1
  assert 0 <= values[summaries.WITHOUT, 'ROUGE-1'] < 0.5

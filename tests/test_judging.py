"""Scores of answers in an evaluation: calibrator, rows, files, abstention."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from rag_jax import (
  calibration,
  evaluate,
  judging,
  loading,
  model,
  outputs,
  types,
)
from rag_jax import config as configs
from rag_jax import workdir as workdirs


@pytest.fixture(scope='module')
def evaluated(tiny_values, tmp_path_factory):
  """An untrained system; half of its answers are right by construction."""
  values = tiny_values | {
    'train': tiny_values['train'] | {'evaluate_without_gold': True}
  }
  config = configs.build(values)
  folder = tmp_path_factory.mktemp('judged')
  prepared = workdirs.open(config, folder)
  params = jax.jit(model.init, static_argnames=('config', 'vocab_size'))(
    jax.random.key(0),
    config.model,
    prepared.index,
    vocab_size=prepared.vocab_size,
  )
  system = prepared.trained(params)
  asked = prepared.dataset.splits['train']
  given = system.ask([question.text for question in asked])
  # Answers of above median probability are right, the others are not.
  middle = np.median([answer.probability for answer in given])
  known = [
    dataclasses.replace(
      q, answers=(a.text if a.probability > middle else 'never',)
    )
    for q, a in zip(asked, given, strict=True)
  ]
  unknown = [
    types.Question(id=f'u{i}', text=q.text, answerable=False, kind='noise')
    for i, q in enumerate(asked[:8])
  ]
  dataset = dataclasses.replace(
    prepared.dataset,
    splits={
      'train': asked,
      'calibration': (*known, *unknown),
      'dev': (*known[::2], *unknown[:3]),
      'noise': tuple(unknown[4:]),
    },
  )
  found = evaluate.evaluate(
    system, dataset, prepared.pretrained, with_baselines=False
  )
  outputs.save(folder, found, {}, config=config)
  return system, dataset, found, folder


def rows(found, split, system='answers'):
  return {
    r.metric: r for r in found.results if (r.split, r.system) == (split, system)
  }


def test_the_calibrator_is_fitted_on_its_split_alone(evaluated):
  system, dataset, found, _ = evaluated
  own = found.system.calibrator
  assert own.split == 'calibration' and system.calibrator is None
  ordering, testing = own.ordering[1], own.testing[1]
  assert len(ordering) == len(testing) == 24  # 40 and 8 unanswerable ones
  assert ordering.sum() + testing.sum() == 20
  assert [split.split for split in found.splits] == ['dev', 'noise']


def test_rows_of_a_split_and_of_all(evaluated):
  _, _, found, _ = evaluated
  dev, noise = rows(found, 'dev'), rows(found, 'noise')
  assert {'ECE', 'Brier', 'AUROC', 'AURC', 'EM@50%', 'EM@80%', 'EM@100%'} < set(
    dev
  )
  judged = found.splits[0].judged
  assert dev['EM@100%'].value == pytest.approx(judged.right.mean())
  assert dev['EM@100%'].count == 23
  assert not judged.right[-3:].any() and judged.known.all()
  assert 'ECE' not in noise and 'null AUROC' in noise
  scores = judged.scores[judged.answerable]
  other = found.splits[1].judged.scores
  pairs = (scores[:, None] > other) + (scores[:, None] == other) / 2
  assert noise['null AUROC'].value == pytest.approx(pairs.mean())
  together = rows(found, judging.TOGETHER)
  assert together['EM@100%'].count == 27
  with_answer = rows(found, f'{judging.TOGETHER} / with an answer')
  given = [
    (q.answerable, a.abstained)
    for own in found.splits
    for q, a in zip(own.questions, own.answers, strict=True)
  ]
  refused = np.mean(
    [abstained for answerable, abstained in given if answerable]
  )
  assert with_answer['refused'].value == pytest.approx(refused)
  assert together['answered'].value == pytest.approx(
    1 - np.mean([abstained for _, abstained in given])
  )
  documents = rows(found, 'dev', 'after ranker')
  assert {'ECE', 'ECE temperature'} <= set(documents)
  assert {'holds', 'changes', 'unsupported'} == set(
    rows(found, 'dev', 'grounding')
  )
  # Most spans of an untrained reader are whole words of its document.
  assert rows(found, 'dev', 'grounding')['holds'].value > 0.5
  numbers = rows(found, judging.TOGETHER, 'health')
  assert {'starved', 'off support', 'collapse', 'beam mass'} <= set(numbers)
  assert numbers['gradient reader'].value > 0


def test_gold_documents_can_be_removed(evaluated):
  _, _, found, _ = evaluated
  removed = rows(found, 'dev / gold documents removed')
  assert removed['answered'].count == 20
  assert 0 <= removed['null AUROC'].value <= 1


def test_answers_files_have_scores_and_grounds(evaluated):
  _, _, found, folder = evaluated
  path = outputs.answers_path(folder, 'dev')
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  judged = found.splits[0].judged
  accepted = found.system.certificate.accepted
  for row, line in enumerate(lines):
    assert line['score'] == pytest.approx(judged.scores[row], rel=1e-6)
    assert line['abstained'] == (line['score'] < 0.25)
    assert line['answer'] == ('' if line['abstained'] else line['best'])
    assert line['best_right'] == judged.right[row]
    assert line['certified'] == (
      accepted is not None and line['score'] >= accepted.threshold
    )
    assert line['features']['answer'] == pytest.approx(
      np.log(line['probability']), abs=1e-3
    )
    read = [c for c in line['candidates'] if c['read']]
    assert len(read) == 3
    known = any(c['left_out'] is not None for c in line['candidates'])
    assert known <= line['answerable']  # and the answer is short enough
    assert not any(
      c['left_out'] is not None for c in line['candidates'] if not c['read']
    )
    assert line['grounding']['holds'] == line['grounding']['supported']
  assert {line['kind'] for line in lines} == {'', 'noise'}
  certificate = json.loads((folder / outputs.CERTIFICATE).read_text())
  assert certificate['questions'] == 24
  assert certificate['promises'] == (accepted is not None)


def test_a_loaded_system_abstains_by_its_calibrator(evaluated):
  _, dataset, found, folder = evaluated
  own = calibration.load(folder / calibration.NAME)
  system = dataclasses.replace(found.system, calibrator=own)
  texts = [q.text for q in dataset.splits['dev']]
  for answer, line in zip(
    system.ask(texts), found.splits[0].answers, strict=True
  ):
    assert answer.score == pytest.approx(line.score, rel=1e-5)
    assert answer.abstained == (answer.score < 0.25)
  strict = dataclasses.replace(
    system.config.calibration, certified=True, alpha=1e-6
  )
  config = dataclasses.replace(system.config, calibration=strict)
  assert all(a.abstained for a in system.with_config(config).ask(texts))
  # Without a calibration split, an older calibrator of the folder goes.
  outputs.save(folder, dataclasses.replace(found, system=evaluated[0]), {})
  assert not (folder / calibration.NAME).exists()
  assert not (folder / outputs.CERTIFICATE).exists()
  assert loading.calibration is calibration


def test_the_calibration_split_is_measured_by_cross_fitting(evaluated):
  system, dataset, _, _ = evaluated
  data = dataclasses.replace(system.config.data, eval_splits=('calibration',))
  train = dataclasses.replace(system.config.train, evaluate_without_gold=False)
  config = dataclasses.replace(system.config, data=data, train=train)
  found = evaluate.evaluate(
    system.with_config(config), dataset, None, with_baselines=False
  )
  own, scores = found.system.calibrator, found.splits[0].judged.scores
  first, second = calibration.halves(48)
  np.testing.assert_allclose(scores[first], own.ordering[0])
  np.testing.assert_allclose(scores[second], own.testing[0])
  data = dataclasses.replace(data, calibration_split='train')
  config = dataclasses.replace(config, data=data)
  with pytest.raises(ValueError, match="calibration_split.*'train'.*Set"):
    judging.calibrate(system.with_config(config), dataset)

"""Runs whose documents have further docids, from questions or from crops."""

import dataclasses
import json

import numpy as np
import pytest

import rag_jax
from rag_jax import (
  compiled,
  explain,
  export,
  further_keys,
  memory,
  plan,
  sizes,
)
from rag_jax import config as configs
from rag_jax import workdir as workdirs
from rag_jax.offline import steps
from rag_jax.page import runs

ASKED = {
  'green-cat': ('what does the white elk weigh?', 'which brown bee is here?'),
  'red-dog': ('how heavy is the black owl?',),
}


@pytest.fixture(scope='module')
def values(tiny_values, tmp_path_factory, write_lines):
  """An untrained experiment whose questions are in a file."""
  path = tmp_path_factory.mktemp('given') / 'questions.jsonl'
  lines = [{'id': name, 'questions': own} for name, own in ASKED.items()]
  write_lines(path, lines)
  return tiny_values | {
    'docid': tiny_values['docid'] | {'further': 2},
    'id_decoder': tiny_values['id_decoder'] | {'num_layers': 0},
    'search': tiny_values['search'] | {'beam_size': 60},
    'generator': {'path': str(path), 'samples': 3},
    'stages': {},
  }


def docids_of(system, name):
  """All docids of a document, its own one first."""
  row, index = system.rows[name], system.index
  where = np.asarray(index.further.where[:, row])
  more = np.asarray(index.further.codes[:, row])[where]
  return [np.asarray(index.codes[row]).tolist(), *more.tolist()]


def test_questions_give_docids_and_own_ones_stay(trained_run, values, capsys):
  workdir, prepared, system = trained_run
  assert 1 < len(docids_of(system, 'green-cat')) <= 3
  where = np.asarray(system.index.further.where)
  rows = [system.rows[name] for name in ASKED]
  assert not np.delete(where, rows, axis=1).any()
  assert all(not d.questions for d in system.documents)
  one = configs.build(values | {'docid': values['docid'] | {'further': 0}})
  plain = workdirs.open(one, workdir.parent / 'plain')
  assert plain.index.further is None
  assert not (workdir.parent / 'plain' / 'generated-questions.jsonl').exists()
  np.testing.assert_array_equal(plain.index.codes, prepared.index.codes)
  # A run that goes on has the same docids, and does not make them again.
  capsys.readouterr()
  again = workdirs.open(prepared.system.config, workdir)
  assert 'further docids' not in capsys.readouterr().err
  assert docids_of(again.system, 'green-cat') == docids_of(system, 'green-cat')
  loaded = rag_jax.load(workdir)
  assert docids_of(loaded, 'green-cat') == docids_of(system, 'green-cat')


def test_each_document_is_returned_once(trained_run):
  _, _, system = trained_run
  [found] = system.search(['what does the white elk weigh?'])
  ids = [candidate.document.id for candidate in found]
  assert len(ids) == len(set(ids)) == len(system.documents)
  total = sum(np.exp(candidate.log_probability) for candidate in found)
  assert total == pytest.approx(1, rel=1e-4)


def test_paths_lead_to_the_most_probable_docid(trained_run):
  _, prepared, system = trained_run
  question = dataclasses.replace(
    prepared.dataset.splits['dev'][0],
    text=ASKED['green-cat'][0],
    document_ids=('green-cat',),
  )
  answers = system.ask([question.text])
  [line] = explain.paths(system, [question], answers)
  [path] = [own for own in line['paths'] if own['document'] == 'green-cat']
  assert path['docid'] in docids_of(system, 'green-cat')
  codes = [level['code'] for level in path['levels']]
  assert path['docid'][: len(codes)] == codes
  [found] = [
    own for own in answers[0].candidates if own.document.id == 'green-cat'
  ]
  assert list(found.codes) == path['docid']
  # The path is one docid's; the ranker's part is that of all of them.
  assert path['levels'][-1]['score'] < found.log_probability
  weight = system.config.ranker.docid_weight
  assert path['parts']['docid'] == pytest.approx(
    weight * found.log_probability, rel=1e-3
  )


def test_a_beam_over_all_docids_misses_none(trained_run):
  _, prepared, system = trained_run
  questions = prepared.dataset.splits['dev']
  assert not np.asarray(system.run(compiled.regret, questions)).any()


def test_documents_come_and_go_with_their_docids(trained_run, tmp_path):
  workdir, _, system = trained_run
  new = {'id': 'gnu', 'title': 'gnu', 'text': 'The gnu lives here.'}
  asked = ['how heavy is the black owl?', 'does the red hen weigh much?']
  grown = system.add([new | {'questions': asked}])
  assert len(docids_of(grown, 'gnu')) > 1
  assert grown.live.further is not None
  loaded = rag_jax.load(workdir)
  assert docids_of(loaded, 'gnu') == docids_of(grown, 'gnu')
  [found] = loaded.search(asked[:1])
  assert sum(own.document.id == 'gnu' for own in found) == 1
  # The page knows the docids of the changed corpus.
  corpus = runs._corpus(workdir)
  assert len(corpus.docids) == len(corpus.rows) + int(
    np.asarray(grown.index.further.where).sum()
  )
  export.export(loaded, tmp_path / 'export')
  lines = (tmp_path / 'export' / 'documents.jsonl').read_text().splitlines()
  [line] = [row for row in map(json.loads, lines) if row['id'] == 'gnu']
  assert [line['codes'], *line['further_codes']] == docids_of(grown, 'gnu')
  less = grown.delete(['gnu', 'green-cat'])
  row = grown.rows['green-cat']
  assert not np.asarray(less.index.further.where)[:, row].any()
  [found] = less.search(ASKED['green-cat'][:1])
  assert not {'gnu', 'green-cat'} & {own.document.id for own in found}
  total = sum(np.exp(candidate.log_probability) for candidate in found)
  assert total == pytest.approx(1, rel=1e-4)
  (workdir / 'live.npz').unlink(missing_ok=True)


def test_crops_are_parts_of_their_documents(values):
  config = configs.build(
    values | {'docid': values['docid'] | {'further_from': 'crops'}}
  )
  tokens = np.arange(1, 41).reshape(4, 10).astype(np.int32)
  keys, owners = further_keys.of(config, None, [()] * 4, tokens)
  assert owners.tolist() == np.repeat(range(4), 3).tolist()
  for own, row in zip(keys, owners, strict=True):
    assert set(own[own != 0].tolist()) <= set(tokens[row].tolist())
    assert own.any()
  assert len({tuple(own) for own in keys}) > 4
  again, _ = further_keys.of(config, None, [()] * 4, tokens)
  np.testing.assert_array_equal(again, keys)


@pytest.mark.long
def test_documents_without_a_run_have_docids_of_their_questions(values):
  config = configs.build(values)
  documents = [
    {'id': str(n), 'text': f'{word} text {n}'}
    for n, word in enumerate(('cat', 'dog', 'owl', 'fox', 'hen') * 4)
  ]
  documents[3]['questions'] = ['owl or hen?', 'dog text?', 'cat cat?']
  system = rag_jax.from_documents(documents, config=config)
  where = np.asarray(system.index.further.where)
  assert where[:, 3].any() and not np.delete(where, 3, axis=1).any()
  assert len(system.search(['hen or owl?'])[0]) == 20


def test_memory_and_plan_count_all_docids(values):
  several = configs.build(values)
  one = configs.build(values | {'docid': values['docid'] | {'further': 0}})
  corpus = sizes.Corpus(documents=10_000, questions=10, characters=10**6)
  assert memory.estimate(several, corpus) > memory.estimate(one, corpus)
  size = plan.size_of(one, 10_000)
  devices = [
    {part.name: part.device for part in reversed(plan.parts(own, size))}
    for own in (one, several)
  ]
  few, many = devices
  for name in ('trie', 'node table'):
    assert 2 * few[name] < many[name] < 4 * few[name], name
  assert 'further docids' not in few
  assert many['docids'] == few['docids']
  assert many['further docids'] == 2 * (few['docids'] + 10_000)


def test_a_job_array_refuses_them(values, tmp_path):
  with pytest.raises(ValueError, match='docid.further=2 needs.*further=0'):
    steps.open_job(configs.build(values), tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'further': -1}, 'docid.further must be at least 0, got -1'),
    ({'further_from': 'titles'}, "further_from must be one of.*got 'titles'"),
  ],
)
def test_values_out_of_range_are_refused(values, fields, message):
  with pytest.raises(ValueError, match=message):
    configs.build(values | {'docid': fields})


def test_docids_of_another_run_are_refused(values):
  with pytest.raises(ValueError, match='Leave out --init_from, or set'):
    configs.build(values | {'init_from': 'other'})

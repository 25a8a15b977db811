"""Output files of an evaluation, also read by external TREC tools."""

import errno
import functools
import json
import math

import jax
import pytest

from rag_jax import config as configs
from rag_jax import evaluate, model, outputs, provenance, report, store, types
from rag_jax import workdir as workdirs

SYSTEMS = ('BM25', 'generative index', 'after ranker')
SIZES = ('small', 'large', 'old')


@pytest.fixture(scope='module')
def beir_folder(tmp_path_factory, write_lines):
  """BEIR data with several graded gold documents per question.

  Ids contain white space, and many documents tie under BM25.
  """
  folder = tmp_path_factory.mktemp('beir')
  (folder / 'qrels').mkdir()
  colours = ('red', 'green', 'blue', 'white', 'black', 'brown')
  animals = [f'animal{i}' for i in range(20)]
  documents, queries, rows = [], [], ['query-id\tcorpus-id\tscore']
  for i, colour in enumerate(colours):
    queries.append({'_id': f'all {i}', 'text': f'Which animals are {colour}?'})
    for j, animal in enumerate(animals):
      name = f'{colour} {animal}'
      size = SIZES[(i + j) % 3]
      text = f'The {colour} {animal} is {size}.'
      documents.append({'_id': name, 'title': animal, 'text': text})
      if (i + j) % 3 == 0:
        rows.append(f'all {i}\t{name}\t{1 + j // 3 % 3}')
  queries.append({'_id': 'none', 'text': 'xyzzy'})  # BM25 finds nothing
  rows.append('none\tred animal0\t1')
  queries.append({'_id': 'no gold', 'text': 'Is red animal1 old?'})
  rows.append('no gold\tred animal1\t0')
  write_lines(folder / 'corpus.jsonl', documents)
  write_lines(folder / 'queries.jsonl', queries)
  for split in ('train', 'dev'):
    (folder / 'qrels' / f'{split}.tsv').write_text('\n'.join(rows) + '\n')
  return folder


@pytest.fixture(scope='module')
def measured(tiny_values, beir_folder, tmp_path_factory):
  """Name of data -> folder and evaluation of an untrained system."""

  @functools.cache
  def make(name):
    path = 'facts' if name == 'facts' else str(beir_folder)
    data = tiny_values['data'] | {'path': path, 'eval_questions': 40}
    if name == 'facts':
      data |= {'eval_splits': ('test_pair', 'test_noise')}
    search = tiny_values['search'] | {'beam_size': 104}
    changed = {'data': data, 'search': search}
    config = configs.build(tiny_values | changed)
    workdir = tmp_path_factory.mktemp(name) / 'run'
    prepared = workdirs.open(config, workdir)
    init = functools.partial(
      model.init, config=config.model, vocab_size=prepared.vocab_size
    )
    key = model.init_key(config.seed)
    system = prepared.trained(jax.jit(init)(key, index=prepared.index))
    found = evaluate.evaluate(system, prepared.dataset, prepared.pretrained)
    made = provenance.collect(config, prepared.dataset, seconds=1.5)
    folder = outputs.new_folder(workdir)
    outputs.save(folder, found, made, config=config)
    return folder, found

  return make


@pytest.mark.parametrize(
  'name', ['beir', pytest.param('facts', marks=pytest.mark.long)]
)
def test_trec_tools_compute_the_same_measures(measured, name):
  ir_measures = pytest.importorskip('ir_measures')
  folder, found = measured(name)
  theirs = {
    'Hits@1': ir_measures.Success @ 1,
    'Hits@10': ir_measures.Success @ 10,
    'MRR@10': ir_measures.RR @ 10,
    'nDCG@10': ir_measures.nDCG @ 10,
    'MAP': ir_measures.AP,
    'Recall@100': ir_measures.R @ 100,
  }
  if name == 'beir':
    theirs['R-precision'] = ir_measures.Rprec
  ours = {(r.split, r.system, r.metric): r for r in found.results}
  labelled = [
    s for s in found.splits if any(q.document_ids for q in s.questions)
  ]
  for split in {own.split for own in labelled}:
    qrels = folder / f'qrels-{split}.trec'
    for system in SYSTEMS:
      run = folder / f'run-{split}-{outputs.slug(system)}.trec'
      values = ir_measures.calc_aggregate(
        list(theirs.values()),
        list(ir_measures.read_trec_qrels(str(qrels))),
        list(ir_measures.read_trec_run(str(run))),
      )
      for metric, measure in theirs.items():
        own = ours[split, system, metric]
        place = split, system, metric
        assert own.value == pytest.approx(values[measure], abs=1e-6), place


def test_bm25_has_many_ties(measured):
  _, found = measured('beir')
  [own] = found.splits
  run = own.runs['BM25']
  scores, where = run.scores, run.where
  assert (where[:, 1:] & (scores[:, 1:] == scores[:, :-1])).sum() > 100


def test_run_files_have_the_scores_of_the_answers_file(measured):
  folder, found = measured('beir')
  [own] = found.splits
  path = outputs.answers_path(folder, own.split)
  answers = [json.loads(line) for line in path.read_text().splitlines()]
  for system, field in (
    ('generative index', 'log_probability'),
    ('after ranker', 'score'),
  ):
    slug = outputs.slug(system)
    lines = (folder / f'run-dev-{slug}.trec').read_text().splitlines()
    rows = [line.split() for line in lines]
    assert all(len(row) == 6 and row[5] == slug for row in rows)
    scores = {(row[0], row[2]): float(row[4]) for row in rows}
    for answer in answers:
      for candidate in answer['candidates']:
        key = answer['id'], candidate['document']['id']
        score = scores[tuple(part.replace(' ', '%20') for part in key)]
        assert score == pytest.approx(candidate[field], rel=1e-5)


def test_a_line_of_the_answers_file_is_complete(measured):
  folder, found = measured('beir')
  [own] = found.splits
  path = outputs.answers_path(folder, 'dev')
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  assert [line['id'] for line in lines] == [q.id for q in own.questions]
  first = lines[0]
  assert first['gold_documents']['red animal0'] == 1  # of 1 to 3
  assert first['gold_documents']['red animal6'] == 3
  weights = [candidate['weight'] for candidate in first['candidates']]
  assert weights == sorted(weights, reverse=True)
  assert sum(weights) == pytest.approx(1, abs=1e-5)
  assert first['document']['id'] in {
    candidate['document']['id'] for candidate in first['candidates']
  }
  assert first['measures'].keys() == {*SYSTEMS, 'grounding'}  # no gold answers
  values = {
    metric: [line['measures'].get('BM25', {}).get(metric) for line in lines]
    for metric in ('Hits@1', 'MAP')
  }
  for result in found.results:
    if result.system == 'BM25' and result.metric in values:
      known = [v for v in values[result.metric] if v is not None]
      assert len(known) == result.count == len(lines) - 1  # one has no gold
      assert sum(known) / len(known) == pytest.approx(result.value, abs=1e-6)


def test_results_have_their_provenance(measured, tiny_values):
  folder, found = measured('facts')
  both = json.loads((folder / 'results.json').read_text())
  made = both['provenance']
  assert made['seed'] == 0
  assert made['data']['documents'] == len(found.system.documents)
  assert made['packages']['jax'] == jax.__version__
  assert made['seconds'] == 1.5
  assert {'version', 'git', 'command', 'python', 'devices', 'date'} < set(made)
  assert report.load_results(folder / 'results.json') == found.results
  stored = store.read_config(folder)
  assert stored == found.system.config


def test_evaluations_are_numbered_and_never_overwritten(tmp_path):
  assert outputs.new_folder(tmp_path).name == '001'
  (tmp_path / 'evaluations' / 'notes.txt').write_text('mine')
  assert outputs.new_folder(tmp_path).name == '002'
  (tmp_path / 'evaluations' / '001').rmdir()
  assert outputs.new_folder(tmp_path).name == '003'


def test_a_folder_that_is_not_writable_raises_one_error(measured, tmp_path):
  _, found = measured('beir')
  (tmp_path / 'evaluations').write_text('a file where the folder should be')
  message = 'evaluations.* cannot be written|cannot be written to .*evaluations'
  with pytest.raises(ValueError, match=message):
    outputs.new_folder(tmp_path)
  (tmp_path / 'results.json').mkdir()
  with pytest.raises(ValueError, match='cannot be written to .*evaluate'):
    outputs.save(tmp_path, found, {})
  assert not list(tmp_path.glob('*.partial'))


def test_the_table_is_shown_before_anything_is_written(
  measured, tmp_path, monkeypatch
):
  _, found = measured('beir')
  monkeypatch.setattr(evaluate, 'evaluate', lambda *a: found)
  questions = {own.split: own.questions for own in found.splits}
  dataset = types.Dataset(documents=found.system.documents, splits=questions)
  prepared = workdirs.Prepared(
    dataset=dataset, system=found.system, pretrained=model.Pretrained()
  )
  shown = []
  run = functools.partial(
    outputs.run_evaluation, found.system, prepared, show=shown.append
  )
  # A folder that cannot be made is found out before anything is measured.
  (tmp_path / 'evaluations').write_text('a file where the folder should be')
  with pytest.raises(ValueError, match='cannot be written'):
    run(tmp_path)
  assert shown == []
  (tmp_path / 'evaluations').unlink()

  def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, 'No space left on device')

  with monkeypatch.context() as patch:
    patch.setattr(report, 'save_results', full)
    with pytest.raises(ValueError, match='cannot be written'):
      run(tmp_path)
  assert shown == [found.results]
  folder = run(tmp_path)
  assert folder.parent == tmp_path / 'evaluations'
  assert {path.name for path in folder.iterdir()} == {
    'config.json',
    'results.json',
    'answers-dev.jsonl',
    'qrels-dev.trec',
    'run-dev-BM25.trec',
    'run-dev-generative-index.trec',
    'run-dev-after-ranker.trec',
  }


def test_results_are_finite(measured):
  _, found = measured('facts')
  assert all(math.isfinite(r.value) for r in found.results)

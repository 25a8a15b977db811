"""Training data, losses and trained parameters of published stages."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax import (
  compiled,
  curriculum,
  objective,
  per_question,
  readers,
  train,
)
from rag_jax import config as configs
from rag_jax import trace as traces
from rag_jax import workdir as workdirs
from rag_jax.data import batches as batching


@pytest.fixture
def values(published_values):
  return published_values


@pytest.fixture
def run(published_run):
  return published_run


@pytest.fixture
def prepared(published_prepared):
  return published_prepared


@pytest.fixture
def system(published_system):
  return published_system


def test_each_stage_computes_its_losses(run):
  _, workdir, _ = run
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  records = [json.loads(line) for line in lines]
  terms = {'docid', 'ranking', 'reranking', 'relevance', 'answer'}
  terms.add('null_document')
  trained = {r['step']: terms & set(r) for r in records}
  assert trained[2] == {'docid', 'ranking'}
  assert trained[4] == {'answer', 'relevance'}
  assert trained[6] == terms


def test_frozen_layers_stay_and_other_layers_change(prepared, system):
  before = {
    'query_encoder': prepared.pretrained.query_encoder['bert'],
    'reader': prepared.pretrained.reader['bert'],
  }
  for name, published in before.items():
    trained = system.params[name]['bert']
    np.testing.assert_array_equal(trained['embedding'], published['embedding'])
    np.testing.assert_array_equal(
      trained['block_0']['qkv'], published['block_0']['qkv']
    )
    moved = trained['block_1']['qkv'] != published['block_1']['qkv']
    assert bool(np.asarray(moved).any()), name


def test_documents_never_gold_in_training_are_no_negatives(
  run, prepared, system
):
  config, _, _ = run
  params = system.params
  questions = system.encode(prepared.dataset.splits['train'])
  batch = batching.take(batching.keep(questions, np.arange(4)))
  index, count = prepared.index, len(prepared.index.tokens)
  stages = dict(config.stages)
  # With softmax every document has weight.
  search = dataclasses.replace(stages['search'], operator='softmax')

  def pushed(index):
    """Documents whose rows get a gradient from the ranking loss."""

    def ranking(table):
      decoder = params['id_decoder'] | {'table': table}
      own = params | {'id_decoder': decoder}
      key = jax.random.key(0)
      terms, _ = objective.loss(
        own, key, batch, index, config=config.model, stage=search
      )
      return terms['ranking'][0]

    slope = jax.jit(jax.grad(ranking))(params['id_decoder']['table'])
    return set(np.flatnonzero(np.abs(slope[:count]).sum(axis=1)).tolist())

  before = pushed(index)
  assert all(bool(index.gold_nodes[document]) for document in before)
  other = min(before - set(questions.gold[:4].ravel().tolist()))
  never = dataclasses.replace(
    index, gold_nodes=index.gold_nodes.at[other].set(False)
  )
  assert before - pushed(never) == {other}

  nothing = dataclasses.replace(
    index, gold_nodes=jnp.zeros_like(index.gold_nodes)
  )
  whole = dataclasses.replace(
    config.model,
    reader=dataclasses.replace(config.reader, null_document=False),
  )
  compute = jax.jit(
    functools.partial(objective.loss, config=whole, stage=stages['joint'])
  )
  for name in ('ranking', 'reranking', 'relevance'):
    compared, alone = (
      float(compute(params, jax.random.key(0), batch, own)[0][name][0])
      for own in (index, nothing)
    )
    assert compared > 1e-3
    assert alone == pytest.approx(0, abs=1e-6)

  own = curriculum.with_negative(config, params, questions, index)
  most = np.bincount(own.negative[own.negative >= 0]).argmax()
  never = dataclasses.replace(
    index, gold_nodes=index.gold_nodes.at[most].set(False)
  )
  found = curriculum.with_negative(config, params, questions, never)
  assert most not in found.negative


def test_the_reader_learns_relevance_from_hard_negatives(run, prepared, system):
  config, _, _ = run
  params = system.params
  asked = prepared.dataset.splits['dev']
  questions = system.encode(asked)
  index = prepared.index
  own = curriculum.with_negative(config, params, questions, index)
  unread = dataclasses.replace(
    config,
    reader=dataclasses.replace(config.reader, reranks=False),
  )
  found = per_question.run(system.with_config(unread), compiled.answer, asked)
  for row, gold, negative in zip(
    np.asarray(found.documents), own.gold, own.negative, strict=True
  ):
    others = (d for d in row if d not in gold and index.gold_nodes[d])
    assert negative == next(others)

  lengths = np.asarray((index.tokens != 0).sum(axis=1))
  batches = batching.reading_batches(own, lengths, batch_size=4, seed=0)
  batch, longest = batches[0]
  rows = np.column_stack([batch.gold, batch.negative])
  assert longest == lengths[rows].max()

  model = dataclasses.replace(
    config.model,
    reader=dataclasses.replace(config.reader, null_document=False),
  )

  def relevance(head):
    changed = params['reader'] | {'relevance': head}
    terms, _ = objective.loss(
      params | {'reader': changed},
      jax.random.key(0),
      batch,
      index,
      config=model,
      stage=dict(config.stages)['reading'],
    )
    return terms['relevance'][0] / terms['relevance'][1]

  zeros = jnp.zeros_like(params['reader']['relevance'])
  assert float(relevance(zeros)) == pytest.approx(np.log(2), rel=1e-5)
  slope = jax.grad(relevance)(zeros)
  better = params['reader'] | {'relevance': -slope}
  passages = index.tokens[rows]
  reader = readers.make(config.reader)
  found = reader.relevance(reader.read(better, batch.query, passages))
  assert float((found[:, 0] - found[:, 1]).mean()) > 0


@pytest.mark.long
def test_a_run_killed_in_a_reader_stage_resumes_exactly(
  values, tmp_path, monkeypatch
):
  stages = values['stages']
  changes = {
    'reader': values['reader'] | {'null_document': False},
    'train': values['train'] | {'log_every': 4, 'checkpoint_every': 1},
    'stages': {
      'search': stages['search'] | {'steps': 1},
      'reading': stages['reading'] | {'steps': 3},
    },
  }
  config = configs.build(values | changes)
  prepared = workdirs.open(config, tmp_path / 'whole')
  whole = train.fit(config, prepared, tmp_path / 'whole')
  lines = (tmp_path / 'whole' / 'metrics.jsonl').read_text().splitlines()
  records = {r['step']: r for r in map(json.loads, lines)}
  assert 'relevance' in records[4]

  prepared = workdirs.open(config, tmp_path / 'killed')
  schedule = train.schedule
  for last in (3, 4):  # within the stage, and at its end

    def stop(config, first, last=last):
      return (step for step in schedule(config, first) if step[0] < last)

    monkeypatch.setattr(train, 'schedule', stop)
    system = train.fit(config, prepared, tmp_path / 'killed')
  for ours, theirs in zip(
    jax.tree.leaves(system.params), jax.tree.leaves(whole.params), strict=True
  ):
    np.testing.assert_array_equal(ours, theirs)


def test_a_null_document_needs_its_loss(values):
  stages, trained = values['stages'], 'is trained by the loss null_document'
  losses = stages['joint']['losses'] | {'null_document': 0.0}
  fid = {'kind': 'fid', 'weights': '', 'frozen_layers': 0, 'reranks': False}
  for group, changes, message in (
    ('stages', {'joint': stages['joint'] | {'losses': losses}}, trained),
    ('stages', {'joint': stages['joint'] | {'steps': 0}}, trained),
    ('stages', {'joint': stages['joint'] | {'read_size': 1}}, 'read_size=2'),
    ('reader', fid, 'need a reader that scores.*null_document=False'),
  ):
    other = values | {group: values[group] | changes}
    with pytest.raises(ValueError, match=f'null_document.*{message}'):
      configs.build(other)


def test_gold_documents_have_equal_weights_with_a_reranking_reader(
  run, prepared, system
):
  config, _, _ = run
  questions = system.encode(prepared.dataset.splits['train'])
  batch = batching.take(batching.keep(questions, np.arange(4)))
  batch = dataclasses.replace(
    batch,
    gold=jnp.column_stack([batch.gold[:, 0], batch.gold[::-1, 0]]),
    negative=jnp.full(4, 47),
  )
  stage = dict(config.stages)['reading']

  @jax.jit
  def read(params):
    trace = traces.Trace(
      params,
      jax.random.key(0),
      batch,
      prepared.index,
      config=config.model,
      stage=stage,
    )
    return trace.reading.weights, trace.relevance

  reader = system.params['reader'] | {'relevance': jnp.linspace(-500, 500, 16)}
  weights, relevance = read(system.params | {'reader': reader})
  assert float(jnp.ptp(relevance, axis=1).min()) > 0.01
  np.testing.assert_allclose(weights, [[0.5, 0.5, 0]] * 4)

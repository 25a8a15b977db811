"""A whole run on published weights: a tiny BERT in published form.

Both its results, and the data, losses and parameters of its stages.
"""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax import (
  ask,
  compare_docids,
  compiled,
  curriculum,
  evaluate,
  objective,
  per_question,
  pretrained,
  readers,
  reliability,
  states,
  step,
  store,
  train,
  types,
)
from rag_jax import config as configs
from rag_jax import trace as traces
from rag_jax import workdir as workdirs
from rag_jax.data import batches as batching
from rag_jax.index import docids
from rag_jax.nn import bert
from rag_jax.ops import lexical


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


def test_the_results_have_every_system(run):
  _, workdir, results = run
  assert {result.system for result in results} == {
    'BM25',
    'dense, exact',
    'dense + BM25, exact',
    'generative index, untrained',
    'generative index',
    'after ranker',
    'answers',
    'answers from gold documents',
    'grounding',
    'health',
  }
  values = {(r.system, r.metric): r.value for r in results}
  assert values['generative index', 'valid docids'] == 1.0
  assert list((workdir.parent / 'vectors').glob('*.npy'))


def test_the_untrained_search_equals_the_exact_hybrid(run, prepared):
  config, _, _ = run
  init = jax.jit(step.init_state, static_argnums=(0, 1))
  state = init(
    config,
    config.stages[0][1],
    prepared.index,
    prepared.pretrained,
    vocab=np.zeros(prepared.vocab_size, np.float32),
  )
  questions = prepared.dataset.splits['dev']
  untrained = prepared.trained(state.params)
  found = per_question.run(untrained, compiled.search, questions)
  encoded = untrained.encode(questions)
  sizes = bert.BertConfig(
    width=16, num_layers=2, num_heads=2, mlp_dim=16, vocab_size=200
  )
  params = prepared.pretrained.query_encoder['bert']
  states = bert.apply(params, sizes, encoded.query)
  query = (states * (encoded.query != 0)[..., None]).sum(1)
  query /= np.linalg.norm(query, axis=1, keepdims=True)

  scores = config.id_decoder.scale * query @ prepared.pretrained.vectors.T
  scores += 0.3 * lexical.score_all(prepared.index.lexicon, encoded.words)
  best = -np.sort(-np.asarray(scores), axis=1)[:, :3]
  np.testing.assert_allclose(found.scores[:, :3], best, atol=1e-3)


def test_the_beam_uses_the_learned_lexical_weight(run, prepared, system):
  config, _, _ = run
  weights = [1e-9, config.ranker.vector_weight, config.ranker.lexical_weight]
  start = np.log(weights).astype(np.float32)
  grown = start + np.log([1.0, 0.5, 2.0]).astype(np.float32)

  def search(weights, **changes):
    own = dataclasses.replace(config.search, **changes)
    ranker = system.params['ranker']
    ranker = ranker | {'log_signal_weight': jnp.asarray(weights)}
    changed = dataclasses.replace(
      system,
      config=dataclasses.replace(config, search=own),
      params=system.params | {'ranker': ranker},
    )
    questions = prepared.dataset.splits['dev']
    return per_question.run(changed, compiled.search, questions)

  unchanged = search(start)
  np.testing.assert_array_equal(search(grown).scores, unchanged.scores)
  kept = search(start, learned_lexical_weight=True)
  np.testing.assert_allclose(kept.scores, unchanged.scores, rtol=1e-5)
  # Lexical weight doubled, vector weight halved: the ratio is 4 times larger.
  found = search(grown, learned_lexical_weight=True)
  expected = search(start, lexical_weight=4 * config.search.lexical_weight)
  np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)
  assert not np.allclose(found.scores, unchanged.scores, rtol=1e-3)


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('search.lexical_weight', 0.0),
    ('ranker.lexical_weight', 0.0),
    ('ranker.vector_weight', 0.0),
    ('ranker.docid_weight', 0.1),
  ],
)
def test_a_learned_lexical_weight_needs_both_signals(values, name, value):
  group, field = name.split('.')
  search = values['search'] | {'learned_lexical_weight': True}
  changed = {**values, 'search': search}
  configs.build(changed)
  changed[group] = changed[group] | {field: value}
  words = f'learned_lexical_weight.*{name}={value}'
  with pytest.raises(ValueError, match=words):
    configs.build(changed)


def test_eval_questions_are_spread_over_the_split(run, prepared, system):
  config, _, _ = run
  data = dataclasses.replace(config.data, eval_questions=3)
  few = system.with_config(dataclasses.replace(config, data=data))
  (_, asked), (_, every) = (
    next(iter(evaluate.splits(own, prepared.dataset))) for own in (few, system)
  )
  assert len(every) == 8
  assert list(asked) == [every[0], every[2], every[5]]


def test_documents_read_are_ranked_first(prepared, system):
  questions = prepared.dataset.splits['dev']
  found = per_question.run(system, compiled.answer, questions)
  weights_of = np.asarray(found.weights)
  np.testing.assert_allclose(weights_of.sum(1), 1, atol=1e-5)
  assert (weights_of[:, 3:] == 0).all()  # three documents were read
  assert (np.diff(weights_of, axis=1) <= 1e-6).all()
  rows = [set(row.tolist()) for row in np.asarray(found.documents)]
  assert all(len(row) == 12 for row in rows)
  text = ask.show(system.ask(['How much does the red cat weigh?'])[0])
  assert text.startswith('question  How much')


def test_the_system_abstains_if_the_null_document_wins(run, system):
  config, _, _ = run
  asked = 'How much does the red cat weigh?'
  named = [types.Question(id='a', text=asked, answers=('100',))]
  named.append(types.Question(id='b', text=asked, answerable=False))
  values, texts = {}, {}
  for threshold in (-1e3, 1e3):
    changed = dataclasses.replace(config.reader, abstention_threshold=threshold)
    own = system.with_config(dataclasses.replace(config, reader=changed))
    values[threshold] = evaluate.question_values(own, named)
    texts[threshold] = ask.show(own.ask([asked])[0])
  never, always = values.values()
  assert never['answers', 'answered'].tolist() == [0, 0]
  assert never['answers', 'EM'].tolist() == [0, 1]
  assert always['answers', 'answered'].tolist() == [1, 1]
  assert always['answers', 'EM'][1] == 0
  assert 'none; the best had probability 0.' in texts[-1e3]
  assert 'none; the best' not in texts[1e3]
  shown = [text.split('document\n')[1].split('\n') for text in texts.values()]
  assert [len(lines) for lines in shown] == [ask.SHOWN, ask.SHOWN]


def test_data_without_gold_documents_can_be_evaluated(prepared, system):
  splits = {
    name: [dataclasses.replace(q, document_ids=()) for q in questions]
    for name, questions in prepared.dataset.splits.items()
  }
  dataset = dataclasses.replace(prepared.dataset, splits=splits)
  results = evaluate.measure(system, dataset, prepared.pretrained)
  # No measures that need gold documents, and no tuned hybrid.
  found = {(r.split, r.system, r.metric) for r in results}
  searched = {own for own in found if own[2].startswith('has-answer@')}
  assert {own[1] for own in searched} == {
    *('generative index', 'after ranker', 'BM25', 'dense, exact')
  }
  assert ('dev', 'health', 'gradient reader') in found
  assert found - searched == {
    ('dev', 'generative index', 'valid docids'),
    ('dev', 'answers', 'EM'),
    ('dev', 'answers', 'F1'),
    *(
      ('dev', 'answers', name)
      for name in reliability.MEASURES
      if name != 'AUROC' or ('dev', 'answers', 'AUROC') in found
    ),
    *(('dev', 'grounding', name) for name in ('holds', 'changes')),
    ('dev', 'grounding', 'unsupported'),
    *(row for row in found if row[1] == 'health'),
  }


def test_a_question_without_gold_document_is_left_out_of_gold_measures(
  prepared, system
):
  first = prepared.dataset.splits['dev'][0]
  lost = dataclasses.replace(first, document_ids=(), answerable=False)
  dataset = dataclasses.replace(
    prepared.dataset, splits=prepared.dataset.splits | {'dev': [first, lost]}
  )
  results = evaluate.measure(
    system, dataset, prepared.pretrained, with_baselines=False
  )
  counts = {(r.split, r.system, r.metric): r.count for r in results}
  apart = ('dev / with an answer', 'dev / without an answer')
  assert {split for split, *_ in counts} == {'dev', *apart}
  assert [counts[split, 'answers', 'EM'] for split in apart] == [1, 1]
  assert counts['dev', 'answers', 'EM'] == 2
  assert counts['dev', 'answers from gold documents', 'EM'] == 1


@pytest.mark.long
def test_compare_docids_uses_published_vectors(values, tmp_path, monkeypatch):
  monkeypatch.setattr(docids, 'SCHEMES', ('residual_kmeans',))
  config = configs.build(
    values | {'docid': {'scheme': 'residual_kmeans', 'codebook_size': 4}}
  )
  text = compare_docids.run(config, tmp_path / 'docids')
  assert 'residual_kmeans' in text
  vectors = np.load(next((tmp_path / 'vectors').glob('*.npy')))
  assert vectors.shape == (48, 16)


def test_a_start_encodes_documents_with_the_trained_encoder(
  values, run, tmp_path
):
  other = {
    'docid': values['docid'] | {'branching': 4},
    'init_from': str(run[1]),
  }
  config = configs.build(values | other)
  folder = tmp_path / 'run'
  prepared = workdirs.open(config, folder)
  ours, published = (
    prepared.pretrained.start_vectors,
    (prepared.pretrained.vectors),
  )
  assert np.abs(ours - published).max() > 1e-4  # the run has trained it
  state, _ = states.restore(config, prepared, folder / store.CHECKPOINTS)
  table = state.params['id_decoder']['table'][: len(ours)]
  np.testing.assert_allclose(table, ours, atol=1e-6)


def test_a_workdir_holds_what_the_weights_say(run):
  config, workdir, _ = run
  found = pretrained.filled(config, workdir)
  assert found == store.read_config(workdir) == pretrained.complete(config)
  assert found.query_encoder.architecture.family == 'bert'
  assert found.query_encoder.pooling == 'mean'
  assert found.data.query_prompt == ''
  assert pretrained.filled(config, workdir / 'no such folder') == config


def test_published_weights_need_their_tokenizer(values):
  data = values['data'] | {'tokenizer': ''}
  with pytest.raises(ValueError, match='query_encoder.weights .* need their'):
    configs.build(values | {'data': data})


def test_sizes_that_differ_from_the_weights_raise_an_error(values, tmp_path):
  other = values | {'reader': values['reader'] | {'num_layers': 3}}
  with pytest.raises(ValueError, match='reader.num_layers must be 2 as in'):
    workdirs.open(configs.build(other), tmp_path / 'run')


def test_lookahead_scores_need_query_words(values, tmp_path):
  other = values | {'data': values['data'] | {'lexicon': False}}
  with pytest.raises(ValueError, match='data.lexicon'):
    configs.build(other)


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

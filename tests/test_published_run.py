"""A whole run on published weights, with a tiny BERT in their form."""

import collections
import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers as hf
from tokenizers import models, normalizers, pre_tokenizers, processors

from rag_jax import (
  ask,
  curriculum,
  evaluate,
  objective,
  rag,
  survey,
  train,
  types,
)
from rag_jax import config as configs
from rag_jax import workdir as workdirs
from rag_jax.components import reader
from rag_jax.data import formats, pipeline
from rag_jax.index import docids
from rag_jax.nn import bert, bert_weights, t5, t5_weights, weights
from rag_jax.ops import lexical

SIZES = bert.BertConfig(
  vocab_size=200,
  width=16,
  num_layers=2,
  num_heads=2,
  hidden=16,
  max_positions=64,
)
FRAME = ['[CLS]', '[SEP]']


def write_tokenizer(
  path, texts, special=('[PAD]', *FRAME), frame=FRAME, size=SIZES.vocab_size
):
  normalizer = normalizers.BertNormalizer()
  splitter = pre_tokenizers.BertPreTokenizer()
  # What the trainer of the library learns differs from run to run.
  counts = collections.Counter(
    word
    for text in texts
    for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))
  )
  words = sorted(counts, key=lambda word: (-counts[word], word))
  letters = sorted(set(''.join(words)))
  inner = [f'##{letter}' for letter in letters]
  pieces = dict.fromkeys([*special, '[UNK]', *letters, *inner, *words])
  vocabulary = {piece: i for i, piece in enumerate(list(pieces)[:size])}
  tokenizer = hf.Tokenizer(models.WordPiece(vocabulary, unk_token='[UNK]'))
  tokenizer.normalizer = normalizer
  tokenizer.pre_tokenizer = splitter
  tokenizer.add_special_tokens([*special, '[UNK]'])
  tokenizer.post_processor = processors.TemplateProcessing(
    single=' '.join([*frame[:-1], '$A', frame[-1]]),
    special_tokens=[(t, tokenizer.token_to_id(t)) for t in frame],
  )
  tokenizer.save(str(path))


@pytest.fixture(scope='module')
def folder(tiny_folder, tmp_path_factory):
  """A folder as models are published in."""
  folder = tmp_path_factory.mktemp('published')
  params = bert.init(jax.random.key(0), SIZES)
  state = bert_weights.to_state_dict(params, SIZES)
  weights.write(folder / 'model.safetensors', state)
  sizes = {
    'model_type': 'bert',
    'hidden_act': 'gelu',
    'vocab_size': SIZES.vocab_size,
    'hidden_size': SIZES.width,
    'num_hidden_layers': SIZES.num_layers,
    'num_attention_heads': SIZES.num_heads,
    'intermediate_size': SIZES.hidden,
    'max_position_embeddings': SIZES.max_positions,
    'type_vocab_size': SIZES.num_segments,
    'layer_norm_eps': SIZES.epsilon,
  }
  (folder / 'config.json').write_text(json.dumps(sizes))
  dataset = formats.load(str(tiny_folder))
  texts = [pipeline.document_text(d) for d in dataset.documents]
  texts += [q.text for split in dataset.splits.values() for q in split]
  write_tokenizer(folder / 'tokenizer.json', texts)
  return str(folder)


@pytest.fixture(scope='module')
def values(tiny_values, folder):
  bert_sizes = {
    'width': 16,
    'num_layers': 2,
    'num_heads': 2,
    'hidden': 16,
    'weights': folder,
    'frozen_layers': 1,
  }
  return tiny_values | {
    'data': tiny_values['data']
    | {'tokenizer': folder, 'max_vector_tokens': 24, 'max_query_words': 6},
    'query_encoder': bert_sizes,
    'id_decoder': {'num_layers': 0},
    'search': {
      'beam_size': 12,
      'read_size': 3,
      'train_read_size': 2,
      'scoring': 'absolute',
      'lexical_weight': 0.3,
    },
    'ranker': {'docid_weight': 0.0, 'vector_weight': 10.0, 'reads': True},
    'reader': bert_sizes | {'max_answer_tokens': 4, 'null_document': True},
    'loss': {'self_index': 0.0},
    'train': tiny_values['train']
    | {'steps': 6, 'search_steps': 2, 'reader_steps': 2, 'head_rate': 10.0}
    | {'reader_negatives': True},
  }


@pytest.fixture(scope='module')
def run(values, tmp_path_factory):
  """What a run leaves, and its workdir."""
  workdir = tmp_path_factory.mktemp('runs') / 'run'
  config = configs.build(values)
  return config, workdir, train.run(config, workdir)


def test_every_system_is_in_the_table(run):
  _, workdir, results = run
  assert {result.system for result in results} == {
    'BM25',
    'dense, exact',
    'dense + BM25, exact',
    'generative index, untrained',
    'generative index',
    'after ranker',
    'answers',
    'answers from the gold document',
  }
  values = {(r.system, r.metric): r.value for r in results}
  assert values['generative index', 'real documents'] == 1.0
  assert list((workdir.parent / 'vectors').glob('*.npy'))


def test_step_0_finds_what_the_exact_hybrid_finds(run):
  config, workdir, _ = run
  prepared = workdirs.open(config, workdir)
  init = jax.jit(train.init_state, static_argnums=0)
  state = init(
    config,
    prepared.index,
    prepared.pretrained,
    vocab=np.zeros(prepared.vocab_size, np.float32),
  )
  questions = prepared.dataset.splits['dev']
  found = evaluate.answer_all(
    state.params,
    config,
    prepared,
    questions,
    function=evaluate.search_function,
  )
  encoded = prepared.encode(questions, config.data)
  sizes = bert.BertConfig(
    width=16, num_layers=2, num_heads=2, hidden=16, vocab_size=200
  )
  states = bert.apply(prepared.pretrained.query_encoder, sizes, encoded.query)
  query = bert.mean_pool(states, encoded.query != 0)

  scores = config.id_decoder.scale * query @ prepared.pretrained.vectors.T
  scores += 0.3 * lexical.score_all(prepared.index.lexicon, encoded.words)
  best = -np.sort(-np.asarray(scores), axis=1)[:, :3]
  np.testing.assert_allclose(found.scores[:, :3], best, atol=1e-3)


def test_the_beam_weighs_words_as_the_ranker_has_come_to(run):
  config, workdir, _ = run
  prepared, params = ask.load(config, workdir)
  weights = [1e-9, config.ranker.vector_weight, config.ranker.lexical_weight]
  start = np.log(weights).astype(np.float32)
  grown = start + np.log([1.0, 0.5, 2.0]).astype(np.float32)

  def search(weights, **changes):
    own = dataclasses.replace(config.search, **changes)
    ranker = params['ranker'] | {'log_signal_weight': jnp.asarray(weights)}
    return evaluate.answer_all(
      params | {'ranker': ranker},
      dataclasses.replace(config, search=own),
      prepared,
      prepared.dataset.splits['dev'],
      function=evaluate.search_function,
    )

  as_it_was = search(start)
  np.testing.assert_array_equal(search(grown).scores, as_it_was.scores)
  kept = search(start, lexical_follows=True)
  np.testing.assert_allclose(kept.scores, as_it_was.scores, rtol=1e-5)
  # Words count twice as much and vectors half: four times as much beside them.
  found = search(grown, lexical_follows=True)
  expected = search(start, lexical_weight=4 * config.search.lexical_weight)
  np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)
  assert not np.allclose(found.scores, as_it_was.scores, rtol=1e-3)


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('search.lexical_weight', 0.0),
    ('ranker.lexical_weight', 0.0),
    ('ranker.vector_weight', 0.0),
    ('ranker.docid_weight', 0.1),
  ],
)
def test_a_weight_that_follows_needs_the_same_signals(values, name, value):
  group, field = name.split('.')
  changed = {**values, 'search': values['search'] | {'lexical_follows': True}}
  configs.build(changed)
  changed[group] = changed[group] | {field: value}
  with pytest.raises(ValueError, match=f'lexical_follows.*{name}={value}'):
    configs.build(changed)


def test_each_stage_trains_what_it_should(run):
  _, workdir, _ = run
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  records = [json.loads(line) for line in lines]
  terms = {'docid', 'ranking', 'reranking', 'relevance', 'answer'}
  terms.add('null_document')
  trained = {r['step']: terms & set(r) for r in records}
  assert trained[2] == {'docid', 'ranking'}
  assert trained[4] == {'answer', 'relevance'}
  assert trained[6] == terms


def test_questions_to_measure_are_spread_over_a_split(run):
  config, workdir, _ = run
  prepared = workdirs.open(config, workdir)
  data = dataclasses.replace(config.data, eval_questions=3)
  few = dataclasses.replace(config, data=data)
  (_, asked), (_, every) = (
    next(iter(evaluate.splits(own, prepared))) for own in (few, config)
  )
  assert len(every) == 8
  assert list(asked) == [every[0], every[2], every[5]]


def test_frozen_layers_stay_as_published_and_others_move(run):
  config, workdir, _ = run
  prepared, params = ask.load(config, workdir)
  before = {
    'query_encoder': prepared.pretrained.query_encoder,
    'reader': prepared.pretrained.reader,
  }
  for name, published in before.items():
    trained = params[name]['bert']
    np.testing.assert_array_equal(trained['embedding'], published['embedding'])
    np.testing.assert_array_equal(
      trained['block_0']['qkv'], published['block_0']['qkv']
    )
    moved = trained['block_1']['qkv'] != published['block_1']['qkv']
    assert bool(np.asarray(moved).any()), name


def test_it_answers_and_ranks_what_it_read_first(run):
  config, workdir, _ = run
  prepared, params = ask.load(config, workdir)
  found = evaluate.answer_all(
    params, config, prepared, prepared.dataset.splits['dev']
  )
  weights_of = np.asarray(found.weights)
  np.testing.assert_allclose(weights_of.sum(1), 1, atol=1e-5)
  assert (weights_of[:, 3:] == 0).all()  # three were read
  assert (np.diff(weights_of, axis=1) <= 1e-6).all()
  rows = [set(row.tolist()) for row in np.asarray(found.documents)]
  assert all(len(row) == 12 for row in rows)
  text = next(
    ask.answers(config, prepared, params, ['How much does the red cat weigh?'])
  )
  assert text.startswith('question  How much')


def test_no_answer_where_the_null_document_wins(run):
  config, workdir, _ = run
  prepared, params = ask.load(config, workdir)
  asked = 'How much does the red cat weigh?'
  named = [types.Question(id='a', text=asked, answers=('100',))]
  named.append(types.Question(id='b', text=asked, answerable=False))
  values, texts = {}, {}
  for threshold in (-1e3, 1e3):
    changed = dataclasses.replace(config.reader, null_threshold=threshold)
    own = dataclasses.replace(config, reader=changed)
    values[threshold] = evaluate.question_values(params, own, prepared, named)
    texts[threshold] = next(ask.answers(own, prepared, params, [asked]))
  never, always = values.values()
  assert never['answers', 'answered'].tolist() == [0, 0]
  assert never['answers', 'EM'].tolist() == [0, 1]
  assert always['answers', 'answered'].tolist() == [1, 1]
  assert always['answers', 'EM'][1] == 0
  assert 'none; the best had probability 0.' in texts[-1e3]
  assert 'none; the best' not in texts[1e3]
  shown = [text.split('document\n')[1].split('\n') for text in texts.values()]
  assert [len(lines) for lines in shown] == [ask.SHOWN, ask.SHOWN]


def test_data_without_gold_documents_are_measured(run):
  config, workdir, _ = run
  prepared, params = ask.load(config, workdir)
  splits = {
    name: [dataclasses.replace(q, document_ids=()) for q in questions]
    for name, questions in prepared.dataset.splits.items()
  }
  dataset = dataclasses.replace(prepared.dataset, splits=splits)
  own = dataclasses.replace(prepared, dataset=dataset)
  results = evaluate.measure(params, config, own)
  # No document to be found or read, and no weight of the hybrid to choose.
  assert {(r.split, r.system, r.metric) for r in results} == {
    ('dev', 'generative index', 'real documents'),
    ('dev', 'answers', 'EM'),
    ('dev', 'answers', 'F1'),
  }


def test_what_has_no_document_is_not_read_from_it_nor_called_unseen(run):
  config, workdir, _ = run
  prepared, params = ask.load(config, workdir)
  first = prepared.dataset.splits['dev'][0]
  lost = dataclasses.replace(first, document_ids=(), answerable=False)
  dataset = dataclasses.replace(
    prepared.dataset, splits=prepared.dataset.splits | {'dev': [first, lost]}
  )
  own = dataclasses.replace(prepared, dataset=dataset)
  results = evaluate.measure(params, config, own, with_baselines=False)
  counts = {(r.split, r.system, r.metric): r.count for r in results}
  apart = ('dev, with an answer', 'dev, without an answer')
  assert {split for split, *_ in counts} == {'dev', *apart}
  assert [counts[split, 'answers', 'EM'] for split in apart] == [1, 1]
  assert counts['dev', 'answers', 'EM'] == 2
  assert counts['dev', 'answers from the gold document', 'EM'] == 1


def test_what_no_question_asks_for_is_never_taken_for_wrong(run):
  config, workdir, _ = run
  prepared, params = ask.load(config, workdir)
  questions = prepared.encode(prepared.dataset.splits['train'], config.data)
  batch = pipeline.take(questions, np.arange(4))
  index, count = prepared.index, len(prepared.index.tokens)
  search = configs.stages(config)[0].model
  every = dataclasses.replace(search.ranker, operator='softmax')  # has weight
  model = dataclasses.replace(search, ranker=every)

  def pushed(index):
    """Documents whose rows are moved by telling them from gold ones."""

    def ranking(table):
      decoder = params['id_decoder'] | {'table': table}
      own = params | {'id_decoder': decoder}
      key = jax.random.key(0)
      terms, _ = objective.loss(own, key, batch, index, config=model)
      return terms['ranking'][0]

    slope = jax.jit(jax.grad(ranking))(params['id_decoder']['table'])
    return set(np.flatnonzero(np.abs(slope[:count]).sum(axis=1)).tolist())

  before = pushed(index)
  assert all(bool(index.asked[document]) for document in before)
  other = min(before - set(questions.gold[:4].ravel().tolist()))
  never = dataclasses.replace(index, asked=index.asked.at[other].set(False))
  assert before - pushed(never) == {other}

  nothing = dataclasses.replace(index, asked=jnp.zeros_like(index.asked))
  whole = dataclasses.replace(
    config.model,
    reader=dataclasses.replace(config.reader, null_document=False),
  )
  compute = jax.jit(functools.partial(objective.loss, config=whole))
  for name in ('ranking', 'reranking', 'relevance'):
    compared, alone = (
      float(compute(params, jax.random.key(0), batch, own)[0][name][0])
      for own in (index, nothing)
    )
    assert compared > 1e-3
    assert alone == pytest.approx(0, abs=1e-6)

  own = curriculum.with_negative(config, params, questions, index)
  most = np.bincount(own.negative[own.negative >= 0]).argmax()
  never = dataclasses.replace(index, asked=index.asked.at[most].set(False))
  found = curriculum.with_negative(config, params, questions, never)
  assert most not in found.negative


def test_the_reader_tells_gold_from_the_best_document_found_beside_it(run):
  config, workdir, _ = run
  prepared, params = ask.load(config, workdir)
  asked = prepared.dataset.splits['dev']
  questions = prepared.encode(asked, config.data)
  index = prepared.index
  own = curriculum.with_negative(config, params, questions, index)
  unread = dataclasses.replace(
    config,
    ranker=dataclasses.replace(config.ranker, reads=False),
    reader=dataclasses.replace(config.reader, null_document=False),
  )
  found = evaluate.answer_all(params, unread, prepared, asked)
  for row, gold, negative in zip(
    np.asarray(found.documents), own.gold, own.negative, strict=True
  ):
    others = (d for d in row if d not in gold and index.asked[d])
    assert negative == next(others)

  stage = configs.stages(config)[1]
  lengths = np.asarray((index.tokens != 0).sum(axis=1))
  batches = pipeline.reading_batches(own, lengths, batch_size=4, seed=0)
  batch, longest = batches[0]
  rows = np.column_stack([batch.gold, batch.negative])
  assert longest == lengths[rows].max()

  model = dataclasses.replace(
    stage.model,
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
    )
    return terms['relevance'][0] / terms['relevance'][1]

  zeros = jnp.zeros_like(params['reader']['relevance'])
  assert float(relevance(zeros)) == pytest.approx(np.log(2), rel=1e-5)
  slope = jax.grad(relevance)(zeros)
  better = params['reader'] | {'relevance': -slope}
  passages = index.tokens[rows]
  found = reader.point(better, config.reader, batch.query, passages).relevance
  assert float((found[:, 0] - found[:, 1]).mean()) > 0


def test_a_run_killed_among_the_steps_of_the_reader_ends_in_the_same_numbers(
  values, tmp_path, monkeypatch
):
  own = {'steps': 4, 'search_steps': 1, 'reader_steps': 3, 'log_every': 4}
  changes = {
    'reader': values['reader'] | {'null_document': False},
    'train': values['train'] | own | {'checkpoint_every': 1},
  }
  config = configs.build(values | changes)
  prepared = workdirs.open(config, tmp_path / 'whole')
  whole = train.fit(config, prepared, tmp_path / 'whole')
  lines = (tmp_path / 'whole' / 'metrics.jsonl').read_text().splitlines()
  records = {r['step']: r for r in map(json.loads, lines)}
  assert 'relevance' in records[4]

  prepared = workdirs.open(config, tmp_path / 'killed')
  plan = train.plan
  for last in (3, 4):  # among these, and at the end

    def stop(config, first, last=last):
      return (step for step in plan(config, first) if step[0] < last)

    monkeypatch.setattr(train, 'plan', stop)
    state = train.fit(config, prepared, tmp_path / 'killed')
  for ours, theirs in zip(
    jax.tree.leaves(state.params), jax.tree.leaves(whole.params), strict=True
  ):
    np.testing.assert_array_equal(ours, theirs)


def test_negatives_need_what_learns_from_them(values):
  alone = values | {'reader': values['reader'] | {'null_document': False}}
  for group, changes, message in (
    ('ranker', {'reads': False}, 'got 2 such steps, False and 1.0. Set --conf'),
    ('loss', {'ranking': 0.0}, 'True and 0.0. Set --config.loss.ranking=1'),
    ('train', {'reader_steps': 0}, 'got 0 such steps.*train.reader_steps=300'),
  ):
    with pytest.raises(ValueError, match=message):
      configs.build(alone | {group: alone[group] | changes})


def test_the_null_document_learns_where_nothing_answers():
  reading = rag.Reading(
    documents=jnp.zeros((5, 3), int),
    passages=jnp.array([[[5, 6], [7, 8], [6, 9]]] * 5),
    places=jnp.zeros((5, 3), int),
    scores=jnp.zeros((5, 3)),
    weights=jnp.ones((5, 3)) / 3,
    docid=jnp.zeros((5, 3)),
    where=jnp.ones((5, 3), bool).at[3, 1:].set(False),
    pointers=reader.Pointers(
      spans=jnp.zeros((5, 3, 2, 2)),
      relevance=jnp.array([[2.0, 1.0, -1.0]] * 5),
    ),
  )
  batch = types.Batch(
    query=jnp.ones((5, 1), int),
    answers=jnp.array([[[6]], [[6]], [[0]], [[6]], [[0]]]),
    gold=jnp.full((5, 1), -1),
    where=jnp.ones(5, bool),
    answerable=jnp.array([True, True, False, True, True]),
  )
  gold = jnp.array([[True, False, False]]) & (jnp.arange(5) != 1)[:, None]
  gold &= (jnp.arange(5) != 2)[:, None]

  def null_loss(relevance):
    own = dataclasses.replace(reading.pointers, relevance=relevance)
    own = dataclasses.replace(reading, pointers=own)
    return objective.null_loss(own, gold, batch)

  total, count = null_loss(reading.pointers.relevance)
  # Less gold and what holds the answer by chance, the first has one passage;
  # the third, which has no answer, all three. The second may have one anywhere,
  # the fourth has nothing left, and what answers the last is not known.
  assert int(count) == 2
  wanted = np.log1p(np.exp(1.0)) + np.log1p(np.exp([2.0, 1.0, -1.0]).sum())
  assert float(total) == pytest.approx(wanted, rel=1e-5)
  slopes = jax.grad(lambda x: null_loss(x)[0])(reading.pointers.relevance)
  expected = [[0, 1, 0], [0, 0, 0], [1, 1, 1], [0, 0, 0], [0, 0, 0]]
  assert (np.asarray(slopes) > 0).astype(int).tolist() == expected


def test_a_null_document_needs_what_teaches_it(values):
  for group, changes, message in (
    ('ranker', {'reads': False}, 'learns from how relevant .*reads=False'),
    ('loss', {'ranking': 0}, 'learns from how relevant .*loss.ranking=0'),
    ('loss', {'answer': 0.0}, 'learns from how relevant .*loss.answer=0'),
    ('reader', {'kind': 'fusion', 'frozen_layers': 0}, 'null_document=False'),
    ('train', {'steps': 4}, 'got train.steps=4, of which .* leave none'),
    ('search', {'train_read_size': 1}, 'got search.train_read_size=1. Set'),
  ):
    other = values | {group: values[group] | changes}
    with pytest.raises(ValueError, match=f'reader.null_document .*{message}'):
      configs.build(other)


def test_schemes_are_compared_by_published_vectors(
  values, tmp_path, monkeypatch
):
  monkeypatch.setattr(docids, 'SCHEMES', ('residual_kmeans',))
  config = configs.build(
    values | {'docid': {'scheme': 'residual_kmeans', 'branching': 4}}
  )
  text = survey.run(config, tmp_path / 'docids')
  assert 'residual_kmeans' in text
  vectors = np.load(next((tmp_path / 'vectors').glob('*.npy')))
  assert vectors.shape == (48, 16)


class TestT5:
  """A T5 that reads, with a search that starts from nothing."""

  @pytest.fixture
  def config(self, tiny_values, tiny_folder, tmp_path):
    folder = tmp_path / 'published'
    folder.mkdir()
    sizes = t5.T5Config(
      vocab_size=SIZES.vocab_size,
      width=16,
      num_layers=1,
      num_decoder_layers=2,
      num_heads=3,  # which does not cut the width
      head_size=4,
      hidden=16,
    )
    state = t5_weights.to_state_dict(t5.init(jax.random.key(0), sizes), sizes)
    weights.write(folder / 'model.safetensors', state)
    described = {
      'model_type': 't5',
      'feed_forward_proj': 'relu',
      'vocab_size': sizes.vocab_size,
      'd_model': 16,
      'd_kv': 4,
      'd_ff': 16,
      'num_layers': 1,
      'num_decoder_layers': 2,
      'num_heads': 3,
      'relative_attention_num_buckets': 32,
      'layer_norm_epsilon': 1e-6,
    }
    (folder / 'config.json').write_text(json.dumps(described))
    texts = [
      pipeline.document_text(d)
      for d in formats.load(str(tiny_folder)).documents
    ]
    path = folder / 'tokenizer.json'
    write_tokenizer(path, texts, special=['<pad>', '</s>'], frame=['</s>'])
    own = {'kind': 'fusion', 'weights': str(folder), 'max_answer_tokens': 5}
    own |= {'num_heads': 3}
    return configs.build(
      tiny_values
      | {
        'data': tiny_values['data'] | {'tokenizer': str(folder)},
        'reader': tiny_values['reader'] | own,
        'loss': {'self_index': 0.0},
        'train': tiny_values['train'] | {'steps': 2},
      }
    )

  def test_it_learns_and_writes(self, config, tmp_path):
    prepared = workdirs.open(config, tmp_path / 'run')
    published = prepared.pretrained.reader
    state = train.fit(config, prepared, tmp_path / 'run')
    moved = jax.tree.map(
      lambda x, y: bool((x != y).any()), published, state.params['reader']['t5']
    )
    assert all(jax.tree.leaves(moved))
    found = evaluate.answer_all(
      state.params, config, prepared, prepared.dataset.splits['dev']
    )
    assert found.tokens.shape == (8, 5)
    assert (found.log_probability < 0).all()
    assert isinstance(evaluate.answer_text(found, 0, prepared, config), str)

  def test_a_tokenizer_with_more_tokens_than_rows_is_refused(
    self, config, tmp_path
  ):
    path = tmp_path / 'tokenizer.json'
    texts = [' '.join(map(str, range(900)))]
    frame = {'special': ['<pad>', '</s>'], 'frame': ['</s>'], 'size': 400}
    write_tokenizer(path, texts, **frame)
    data = dataclasses.replace(config.data, tokenizer=str(path))
    own = dataclasses.replace(config, data=data)
    with pytest.raises(ValueError, match='at most the 200 tokens of reader.w'):
      workdirs.open(own, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()

  def test_a_tokenizer_of_a_bert_is_refused(self, config, folder, tmp_path):
    data = dataclasses.replace(config.data, tokenizer=folder)
    own = dataclasses.replace(config, data=data)
    with pytest.raises(
      ValueError, match='end texts with </s>, token 1, .*None'
    ):
      workdirs.open(own, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_published_weights_need_their_tokenizer(values):
  data = values['data'] | {'tokenizer': ''}
  with pytest.raises(ValueError, match='query_encoder.weights .* need their'):
    configs.build(values | {'data': data})


def test_sizes_that_are_not_those_of_the_weights_are_named(values, tmp_path):
  other = values | {'reader': values['reader'] | {'num_layers': 3}}
  with pytest.raises(ValueError, match='reader.num_layers must be 2 as in'):
    workdirs.open(configs.build(other), tmp_path / 'run')


def test_a_plan_needs_words(values, tmp_path):
  other = values | {'data': values['data'] | {'max_query_words': 0}}
  with pytest.raises(ValueError, match='data.max_query_words'):
    configs.build(other)

"""The fid reader with citations, against its logits and against Python."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax import readers
from rag_jax.nn import decoding, transformer
from rag_jax.readers import base, citations, fid

VOCAB = 40
SIZES = {'width': 16, 'num_layers': 1, 'num_heads': 2, 'mlp_dim': 16}
CONFIG = base.ReaderConfig(
  kind='fid', citations=True, max_answer_tokens=7, max_sentences=2, **SIZES
)
READER = readers.make(CONFIG)
WEIGHTS = jnp.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
ANSWERS = jnp.array([[[7, -1, 9, -2]], [[8, 9, -3, 0]]])


@pytest.fixture(scope='module')
def params():
  init = jax.jit(READER.init, static_argnames='vocab_size')
  return init(jax.random.key(0), vocab_size=VOCAB)


@jax.jit
def score(params, query, passages, weights, answers):
  memory = READER.read(params, query, passages)
  return READER.joint_log_likelihood(params, memory, weights, answers)


@jax.jit
def logits(params, texts, target, weights=WEIGHTS):
  """Log-probabilities of all classes by the decoder on the whole text.

  Citations come before sentences.
  """
  network = fid._network(CONFIG, VOCAB)
  prefix = jnp.pad(target[:, :-1], ((0, 0), (1, 0)), constant_values=fid.BOS)
  found = transformer.apply(
    network, params, *texts, weights, prefix, method='write'
  )
  return jax.nn.log_softmax(found)


def test_forced_scores_are_those_of_all_classes(params, texts):
  target = base.with_end(ANSWERS[:, 0], fid.EOS)
  target = citations.before_sentences(target)
  assert target.tolist() == [[-1, 7, -2, 9, 2], [-3, 8, 9, 2, 0]]
  everything = np.asarray(logits(params, texts, target))
  assert everything.shape == (2, 5, VOCAB + 3)
  found = score(params, *texts, WEIGHTS, ANSWERS)
  for row, tokens in enumerate(target.tolist()):
    for place, token in enumerate(tokens):
      wanted = 0.0
      if token:
        number = token if token > 0 else VOCAB - 1 - token
        wanted = everything[row, place, number]
      np.testing.assert_allclose(found[row, place], wanted, rtol=1e-4)
  # The chance of a passage of weight zero is none.
  assert (everything[0, :, VOCAB + 2] < -1e6).all()
  assert (everything[:, :, 0] < -1e6).all()


def test_a_citation_that_is_not_read_has_no_score(params, texts):
  found = score(params, *texts, WEIGHTS, jnp.array([[[7, -3]], [[8, -9]]]))
  assert found[:, 0].tolist() == [0, 0]
  assert (found[:, 1] < 0).all() and (found[:, 2] < 0).all()


def test_what_is_written_is_sentences_with_citations(
  params, texts, monkeypatch
):
  monkeypatch.setattr(citations, 'after_sentences', lambda tokens, end: tokens)

  @jax.jit
  def answer(params):
    memory = READER.read(params, *texts)
    return READER.answer(params, memory, WEIGHTS, WEIGHTS > 0)

  lengths = set()
  for seed in range(8):  # parameters that make citations and ends likely
    noise = jax.random.split(jax.random.key(seed), 100)
    own = jax.tree.map(
      lambda x, key: x + jax.random.normal(key, x.shape),
      params,
      jax.tree.unflatten(
        jax.tree.structure(params), list(noise[: len(jax.tree.leaves(params))])
      ),
    )
    words = own['embedding']['embedding'].at[fid.EOS].multiply(4)
    own['embedding'] = {'embedding': words}
    found = answer(own)
    scores = logits(own, texts, base.with_end(found.tokens, fid.EOS))
    for row, tokens in enumerate(found.tokens.tolist()):
      real = [t for t in tokens if t]
      assert not any(tokens[len(real) :])
      lengths.add(len(real))
      cites = [place for place, token in enumerate(real) if token < 0]
      assert all(WEIGHTS[row, -1 - real[place]] > 0 for place in cites)
      starts = [place for place in cites if place - 1 not in cites]
      assert len(starts) <= 2
      assert not real or starts[0] == 0
      for place in set(cites) - set(starts):
        assert real[place] != real[place - 1]
      total = sum(
        float(scores[row, i, t if t > 0 else VOCAB - 1 - t])
        for i, t in enumerate(real)
      )
      if len(real) < 7:  # the end was written, after a token
        assert not real or real[-1] > 0
        total += float(scores[row, len(real), fid.EOS])
      np.testing.assert_allclose(
        found.log_probability[row], total, rtol=1e-3, atol=1e-3
      )
  assert 7 in lengths and len(lengths) > 2


def test_a_sentence_is_written_from_the_passages_that_it_cites(params, texts):
  query, passages = texts
  passages = passages.at[0, :2, :4].set(jnp.arange(31, 39).reshape(2, 4))
  strong = params | {
    'copy_query': jax.tree.map(lambda x: 9 * x, params['copy_query'])
  }
  other = passages.at[0, 1, :4].set(30)
  target = jnp.array([[-1, 5, -1, -2, 5]] * 2)
  before, after = (
    np.exp(logits(strong, (query, own), target))[0, :, :VOCAB]
    for own in (passages, other)
  )
  # What the other passage says changes nothing but the choice of a citation.
  before, after = (x / x.sum(-1, keepdims=True) for x in (before, after))
  changed = np.abs(before - after).max(-1) > 1e-4
  assert changed.tolist() == [True, False, False, False, True]


def test_citations_before_and_after_sentences():
  rng = np.random.default_rng(0)
  for _ in range(50):
    sentences = [
      (
        [int(t) for t in rng.integers(3, 9, rng.integers(1, 4))],
        [-1 - int(k) for k in rng.permutation(3)[: rng.integers(1, 3)]],
      )
      for _ in range(rng.integers(0, 4))
    ]
    after = [t for words, marks in sentences for t in words + marks] + [2]
    before = [t for words, marks in sentences for t in marks + words] + [2]
    pad = [0] * (20 - len(after))
    after, before = (jnp.array([x + pad]) for x in (after, before))
    assert (citations.before_sentences(after) == before).all()
    assert (citations.after_sentences(before, 2) == after).all()


def test_a_sentence_that_was_cut_is_left_out():
  cut = jnp.array([[-1, 5, 6, -2, 7], [-1, 5, 6, 7, 8], [-1, 5, 2, 0, 0]])
  found = citations.after_sentences(cut, 2)
  assert found.tolist() == [[5, 6, -1, 0, 0], [0] * 5, [5, -1, 2, 0, 0]]


def test_sources_step_by_step_equal_those_of_the_text():
  rng = np.random.default_rng(0)
  tokens = jnp.asarray(rng.choice([-1, -2, -3, 4, 5, 6], (5, 12)))
  whole = citations.sources(tokens, 3)
  step = citations.nothing_cited(5, 3)
  for place in range(12):
    step = citations.advance(step, tokens[:, place : place + 1])
    np.testing.assert_array_equal(step.cited[:, 0], whole.cited[:, place])
    np.testing.assert_array_equal(step.is_open[:, 0], whole.is_open[:, place])


def test_a_copy_goes_on_where_the_answer_does(params, texts):
  query, passages = texts
  passages = jnp.where(passages > 30, 3, passages)
  passages = passages.at[1, 2, :4].set(jnp.arange(31, 35))
  sure = params | {
    'continuation': params['continuation'] | {'bias': jnp.full(3, 12.0)}
  }
  target = jnp.array([[31, 32, 33, 34, 2]] * 2)
  found = np.asarray(logits(sure, (query, passages), target))
  assert (np.exp(found[1, range(1, 4), target[1, 1:4]]) > 0.99).all()
  # The other question has no such passage.
  assert (np.exp(found[0, range(1, 4), target[0, 1:4]]) < 0.5).all()


def test_places_after_the_last_tokens_by_loops():
  rng = np.random.default_rng(0)
  tokens = rng.choice([-1, 0, 1, 1, 1, 2, 2], (2, 3, 6))
  recent = rng.choice([-1, 0, 1, 1, 1, 2, 2], (2, 4, 3))
  found = fid._continues(jnp.asarray(recent), jnp.asarray(tokens))
  assert found.shape == (2, 4, 18, 3)
  for b, a, k, s, n in np.ndindex(2, 4, 3, 6, 3):
    before = [tokens[b, k, s - 1 - j] if s > j else 0 for j in range(n + 1)]
    wanted = all(
      own > 0 and own == recent[b, a, j] for j, own in enumerate(before)
    )
    assert found[b, a, k * 6 + s, n] == wanted
  assert 0 < found[..., 2].sum() < found[..., 0].sum()


def test_the_question_is_read_and_not_copied(params, texts):
  query, passages = texts
  token = 37
  passages = jnp.where(passages == token, 3, passages)
  network = fid._network(CONFIG, VOCAB)
  prefix = jnp.ones((2, 1), int)

  @jax.jit
  def run(params, query):
    return transformer.apply(
      network, params, query, passages, WEIGHTS, prefix, method='write'
    )

  strong = jax.tree.map(lambda x: 5 * x, params['copy_query'])
  asked = query.at[:, 0].set(token)
  plain, other = (
    run(own, asked) for own in (params, params | {'copy_query': strong})
  )
  np.testing.assert_allclose(plain[..., token], other[..., token], rtol=1e-5)
  assert np.abs(plain - other)[..., :VOCAB].max() > 1e-3
  assert np.abs(plain - run(params, query))[..., :VOCAB].max() > 1e-3


def test_question_tokens_that_a_passage_lacks_are_marked(params, texts):
  query, passages = texts
  passages = passages.at[0, 1, :5].set(query[0])
  other = params | {
    'segment': {'embedding': params['segment']['embedding'].at[3].add(1.0)}
  }
  read = jax.jit(READER.read)
  before, after = (read(own, query, passages).states for own in (params, other))
  moved = np.abs(before - after).max((2, 3)) > 1e-6  # [B, K]
  lacks = np.array(
    [
      [bool(set(q[q > 0].tolist()) - set(p.tolist())) for p in own]
      for q, own in zip(np.asarray(query), np.asarray(passages), strict=True)
    ]
  )
  np.testing.assert_array_equal(moved, lacks)
  assert lacks.any() and not lacks.all()


def test_a_step_lowers_the_loss_of_citations(params, texts, losses_of_a_step):
  def loss(params):
    found = score(params, *texts, WEIGHTS, ANSWERS)
    return -jnp.where(ANSWERS[:, 0] < 0, found[:, :4], 0.0).sum()

  before, after = losses_of_a_step(loss, params, 0.1)
  assert after < before - 0.01


def test_alone_equals_one_passage_at_a_time(params, texts):
  memory = jax.jit(READER.read)(params, *texts)
  alone = jax.jit(READER.log_likelihood)(params, memory, ANSWERS)
  joint = jax.jit(READER.joint_log_likelihood)
  for k in range(3):
    one = jax.tree.map(lambda x, k=k: x[:, k : k + 1], memory)
    own = jnp.where(
      ANSWERS + 1 + k == 0, -1, jnp.where(ANSWERS < 0, -9, ANSWERS)
    )
    wanted = joint(params, one, jnp.ones((2, 1)), own)
    np.testing.assert_allclose(alone[:, k], wanted, rtol=1e-4, atol=1e-5)


def test_citations_of_gold_documents_become_those_read():
  rng = np.random.default_rng(0)
  for _ in range(20):
    answers = rng.integers(-4, 5, (3, 1, 6))
    gold = np.stack([rng.permutation(7)[:3] for _ in range(3)])
    gold[rng.random(gold.shape) < 0.2] = -1
    read = np.stack([rng.permutation(7)[:4] for _ in range(3)])
    where = rng.random(read.shape) < 0.8
    found = citations.place(*map(jnp.asarray, (answers, gold, read, where)))
    for row in range(3):
      places = {
        int(document): -1 - place
        for place, document in enumerate(read[row])
        if where[row, place]
      }
      for token, own in zip(answers[row, 0], found[row, 0], strict=True):
        if token >= 0:
          assert own == token
          continue
        name = int(gold[row, -token - 1]) if -token <= 3 else -1
        wanted = places.get(name) if name >= 0 else None
        assert own == wanted if wanted else own < -100


def test_decoding_step_by_step_equals_the_decoder():
  network = transformer.Decoder(2, 2, 12)
  keys = jax.random.split(jax.random.key(0), 5)
  x = jax.random.normal(keys[0], (2, 4, 8))
  memory = jax.random.normal(keys[1], (2, 6, 8))
  where = jax.random.uniform(keys[2], (2, 6)) < 0.7
  bias = jax.random.normal(keys[3], (2, 1, 6))

  @jax.jit
  def decode(x, memory, where, bias):
    params = network.init(keys[4], x, memory, where, bias=bias)['params']
    whole = transformer.apply(network, params, x, memory, where, bias=bias)
    start = decoding.start(params, memory, where, bias, max_length=5)
    return params, whole, *start

  params, whole, read, cache = decode(x, memory, where, bias)
  step = jax.jit(decoding.step)
  for place in range(4):
    one, cache = step(params, read, cache, x[:, place : place + 1])
    np.testing.assert_allclose(one[:, 0], whole[:, place], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    (
      {'kind': 'extractive', 'citations': True},
      'reader.citations has no effect',
    ),
    ({'max_sentences': 3}, 'reader.max_sentences needs citations'),
    ({'support': 0.5}, 'reader.support needs citations'),
    ({'citations': True, 'support': 1.5}, 'reader.support must be from 0 to 1'),
    ({'citations': True, 'max_sentences': -1}, 'must be at least 0, got -1'),
  ],
)
def test_fields_that_do_not_fit(fields, message):
  with pytest.raises(ValueError, match=message):
    readers.make(base.ReaderConfig(**{'kind': 'fid'} | fields))

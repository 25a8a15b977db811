"""Node tables with rows for some nodes only, against sums in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.components import id_decoder, query_encoder, shared_rows
from rag_jax.ops import beam, node_slots
from rag_jax.ops import trie as tries

COUNT, WIDTH, BATCH = 40, 8, 3
LIMITS = [
  (1, 4, True),
  *(
    pytest.param(*own, marks=pytest.mark.long)
    for own in ((2, 0, True), (0, 3, False))
  ),
]


@pytest.fixture(scope='module')
def corpus():
  """Docids of three codes, of which one more tells copies apart; vectors."""
  rng = np.random.default_rng(0)
  base = rng.integers(0, 3, (COUNT, 3))
  base[:3] = [[3, 0, 1], [3, 1, 1], [4, 2, 2]]  # a leaf at depth 1, two at 2
  seen: dict = {}
  last = [
    seen.setdefault(tuple(row), []).append(0) or len(seen[tuple(row)]) - 1
    for row in base
  ]
  codes = np.concatenate([base, np.asarray(last)[:, None]], axis=1)
  return codes, rng.normal(size=(COUNT, WIDTH)).astype(np.float32)


def unit_of(x):
  return x / np.linalg.norm(x)


def below(codes, prefix):
  return np.flatnonzero((codes[:, : len(prefix)] == prefix).all(1))


def way(codes, document):
  """The prefixes of a document, down to the first that no other has."""
  for end in range(1, codes.shape[1] + 1):
    yield tuple(codes[document, :end])
    if len(below(codes, codes[document, :end])) == 1:
      return


def has_row(codes, prefix, levels, documents):
  large = documents and len(below(codes, prefix)) >= documents
  return len(prefix) <= levels or bool(large)


def expected(corpus, limits, unit):
  """Prefix -> vector, by loops over documents."""
  codes, vectors = corpus
  each = np.stack([unit_of(x) for x in vectors]) if unit else vectors
  found = {(): np.zeros(WIDTH)}
  for end in range(1, codes.shape[1] + 1):
    prefixes = {p for i in range(COUNT) for p in way(codes, i) if len(p) == end}
    shared: dict = {}
    for prefix in prefixes:
      rows = below(codes, prefix)
      if has_row(codes, prefix, *limits):
        mean = vectors[rows].mean(0)
        found[prefix] = unit_of(mean) if unit else mean
      else:
        rest = [each[row] - found[prefix[:-1]] for row in rows]
        shared.setdefault(prefix[-1], []).extend(rest)
    for prefix in prefixes - found.keys():
      mean = np.mean(shared[prefix[-1]], axis=0)
      found[prefix] = found[prefix[:-1]] + mean
  return found


def made(corpus, limits, *, unit=True, num_layers=0):
  codes, vectors = corpus
  trie = tries.build(codes)
  config = id_decoder.IdDecoderConfig(
    table_levels=limits[0],
    table_documents=limits[1],
    num_layers=num_layers,
    num_heads=2,
    mlp_dim=8,
  )
  slots = node_slots.of_trie(trie, *limits)
  init = jax.jit(
    functools.partial(id_decoder.init, config=config, unit=unit, slots=slots)
  )
  params = init(
    jax.random.key(0), trie=trie, codes=codes, document_vectors=vectors
  )
  rng = np.random.default_rng(1)
  if num_layers:
    params['network'] = jax.tree.map(
      lambda x: x + jnp.asarray(rng.normal(size=x.shape), x.dtype),
      params['network'],
    )
  vector = jnp.asarray(rng.normal(size=(BATCH, WIDTH)), jnp.float32)
  encoding = query_encoder.Encoding(
    vector=query_encoder.normalise(vector) if unit else vector,
    memory=jnp.asarray(rng.normal(size=(BATCH, 4, WIDTH)), jnp.float32),
    where=jnp.ones((BATCH, 4), bool),
    unit=unit,
  )
  options = {'config': config, 'slots': slots}
  return (params, encoding), trie, options


@pytest.mark.parametrize('levels, documents, unit', LIMITS)
def test_scores_are_products_with_the_summed_vectors(
  corpus, levels, documents, unit
):
  codes, limits = corpus[0], (levels, documents)
  params, trie, options = made(corpus, limits, unit=unit)
  wanted = expected(corpus, limits, unit)
  rows = {p for i in range(COUNT) for p in way(codes, i)}
  rows = {p for p in rows if has_row(codes, p, *limits)}
  assert len(params[0]['table']) == options['slots'].count == len(rows)
  step = functools.partial(id_decoder.apply, **options)
  found = beam.score_all(
    params,
    id_decoder.initial_cache(options['config'], BATCH, WIDTH),
    trie,
    jnp.asarray(codes),
    step_fn=step,
    batch_size=BATCH,
    scoring='inner_product',  # which sums the scores of all nodes
  )
  queries = np.exp(params[0]['log_scale'][0]) * np.asarray(params[1].vector)
  for document in range(COUNT):
    nodes = [*way(codes, document)]
    nodes += nodes[-1:] * (codes.shape[1] - len(nodes))  # a leaf, to the end
    total = sum(queries @ wanted[node] for node in nodes)
    np.testing.assert_allclose(found[:, document], total, atol=2e-3)
  vectors = jax.jit(functools.partial(shared_rows.document_vectors, unit=unit))(
    params[0], trie, options['slots'], codes[None]
  )
  for document in range(COUNT):
    *_, leaf = way(codes, document)
    np.testing.assert_allclose(vectors[0, document], wanted[leaf], atol=1e-5)


@pytest.mark.parametrize(
  'scoring',
  ['absolute', pytest.param('log_softmax', marks=pytest.mark.long)],
)
def test_a_search_finds_what_scoring_all_finds(corpus, scoring):
  params, trie, options = made(corpus, (1, 4), num_layers=1)
  cache = id_decoder.initial_cache(options['config'], BATCH, WIDTH)
  step = functools.partial(id_decoder.apply, **options)
  codes = jnp.asarray(corpus[0])
  scores = jax.jit(
    lambda params: beam.score_all(
      params,
      cache,
      trie,
      codes,
      step_fn=step,
      batch_size=BATCH,
      scoring=scoring,
    )
  )(params)
  found = jax.jit(
    lambda params: beam.search(
      params,
      cache,
      trie,
      step_fn=step,
      batch_size=BATCH,
      beam_size=COUNT,
      scoring=scoring,
    )
  )(params)
  best = jnp.argsort(-scores, axis=1, stable=True)
  wanted = jnp.take_along_axis(scores, best, axis=1)
  np.testing.assert_allclose(found.scores, wanted, atol=1e-4)
  if scoring == 'log_softmax':
    np.testing.assert_allclose(jnp.exp(scores).sum(1), 1, rtol=1e-4)


@pytest.mark.parametrize(
  'num_layers', [0, pytest.param(1, marks=pytest.mark.long)]
)
def test_level_likelihood_is_a_softmax_over_a_level(corpus, num_layers):
  codes, limits = corpus[0], (1, 4)
  params, trie, options = made(corpus, limits, num_layers=num_layers)
  found = jax.jit(
    functools.partial(id_decoder.level_log_likelihood, **options)
  )(params, trie, jnp.broadcast_to(codes, (BATCH, *codes.shape)))
  wanted = expected(corpus, limits, unit=True)
  cache = id_decoder.initial_cache(options['config'], BATCH, WIDTH)
  cache = beam.reorder(cache, jnp.zeros((BATCH, COUNT), jnp.int32))
  total = np.zeros((BATCH, COUNT))
  scale = np.exp(params[0]['log_scale'][0])
  for level, frontier in enumerate(
    tries.walk(trie, jnp.broadcast_to(codes, (BATCH, *codes.shape)))
  ):
    state, cache = id_decoder.states(params, cache, frontier, **options)
    ends = [([*way(codes, i)][: level + 1])[-1] for i in range(COUNT)]
    nodes = sorted(set(ends))
    products = (
      scale * np.asarray(state) @ np.stack([wanted[p] for p in nodes], axis=1)
    )
    own = np.asarray([nodes.index(end) for end in ends])
    gold = np.take_along_axis(products, own[None, :, None], axis=-1)[..., 0]
    total += gold - np.logaddexp.reduce(products, axis=-1)
  np.testing.assert_allclose(found, total / trie.depth, atol=2e-4)


def test_bad_sizes_are_refused_with_a_remedy():
  with pytest.raises(ValueError, match='table_levels must be at least 0'):
    id_decoder.IdDecoderConfig(table_levels=-1)
  with pytest.raises(ValueError, match="output='codebook' with 1 and 0"):
    id_decoder.IdDecoderConfig(table_levels=1, output='codebook')
  config = id_decoder.IdDecoderConfig(table_levels=1)
  with pytest.raises(ValueError, match='an index has slots'):
    id_decoder.init(
      jax.random.key(0),
      config,
      trie=tries.build(np.array([[0], [1]])),
      codes=jnp.array([[0], [1]]),
      document_vectors=jnp.ones((2, 4)),
    )

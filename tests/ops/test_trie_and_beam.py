"""The trie and the beam against brute force, on tries of any shape."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_jax.ops import beam, trie

SETTINGS = settings(max_examples=10, deadline=None, derandomize=True)


@st.composite
def docid_sets(draw):
  """Unique codes: skewed, of one document, or with single-child chains."""
  length = draw(st.integers(1, 4))
  width = draw(st.integers(1, 5))
  count = draw(st.integers(1, min(20, width**length)))
  seed = draw(st.integers(0, 9))
  rng = np.random.default_rng(seed)
  skew = draw(st.sampled_from([1.0, 3.0]))
  rows: dict[tuple, None] = {}
  while len(rows) < count:
    code = (width * rng.random(length) ** skew).astype(int)
    rows[tuple(code.tolist())] = None
    if rng.random() < 0.2:  # skewed draws repeat; a uniform one ends the loop
      rows[tuple(rng.integers(0, width, length).tolist())] = None
  codes = np.array(list(rows), np.int32)
  return codes, seed


def tables(index, batch_size, seed):
  """A score for each edge and query, and the function that looks it up."""
  rng = np.random.default_rng(seed)
  scores = [
    jnp.asarray(rng.normal(size=(batch_size, n)) * 2, jnp.float32)
    for n in index.sizes
  ]

  def step_fn(params, cache, frontier):
    rows = jnp.arange(batch_size)[:, None, None]
    # A cache that counts steps: it has to follow the beams.
    cache = cache + frontier.nodes[..., None].astype(jnp.float32)
    return params[frontier.level][rows, frontier.children], cache

  return scores, step_fn


def brute_force(index, scores, scoring, allowed):
  """Scores of all documents [B, N], -inf where not allowed, in NumPy."""
  paths = np.asarray(index.paths)
  batch_size, count = scores[0].shape[0], len(paths)
  totals = np.zeros((batch_size, count))
  for b in range(batch_size):
    alive = np.flatnonzero(allowed[b])
    for d in range(count):
      if not allowed[b, d]:
        totals[b, d] = -np.inf
        continue
      for level in range(paths.shape[1]):
        node = paths[d, level]
        edge = float(scores[level][b, node])
        if scoring == 'absolute':
          totals[b, d] = edge
        elif scoring == 'inner_product':
          totals[b, d] += edge
        else:
          same = alive[(paths[alive, :level] == paths[d, :level]).all(1)]
          siblings = np.unique(paths[same, level])
          rest = np.asarray(scores[level])[b, siblings].astype(float)
          totals[b, d] += edge - np.logaddexp.reduce(rest)
  return totals


def search(index, scores, step_fn, **options):
  batch_size = scores[0].shape[0]
  return beam.search(
    scores,
    jnp.zeros((batch_size, 1, 1)),
    index,
    step_fn=step_fn,
    batch_size=batch_size,
    **options,
  )


@pytest.mark.parametrize('scoring', beam.SCORINGS)
@SETTINGS
@given(data=docid_sets(), extra=st.integers(0, 3), limit=st.booleans())
def test_a_wide_beam_is_exact(scoring, data, extra, limit):
  codes, seed = data
  index = trie.build(codes)
  scores, step_fn = tables(index, 2, seed)
  allowed = np.ones((2, len(codes)), bool)
  if limit:
    allowed = np.random.default_rng(seed).random(allowed.shape) < 0.6
  found = search(
    index,
    scores,
    step_fn,
    beam_size=len(codes) + extra,
    allowed=jnp.asarray(allowed),
    scoring=scoring,
  )
  wanted = brute_force(index, scores, scoring, allowed)
  for b in range(2):
    where = np.asarray(found.where[b])
    documents = np.asarray(found.documents[b])[where]
    assert sorted(documents) == np.flatnonzero(allowed[b]).tolist()
    own = wanted[b, documents]
    np.testing.assert_allclose(found.scores[b][where], own, atol=1e-4)
    assert (np.diff(own) <= 1e-4).all()
    assert (np.asarray(found.scores[b])[~where] < -1e8).all()
  exact = beam.score(
    scores,
    jnp.zeros((2, 1, 1)),
    index,
    found.documents,
    step_fn=step_fn,
    allowed=jnp.asarray(allowed),
    scoring=scoring,
  )
  where = np.asarray(found.where)
  np.testing.assert_allclose(
    np.asarray(exact)[where], np.asarray(found.scores)[where], atol=1e-4
  )


@SETTINGS
@given(data=docid_sets(), size=st.integers(1, 4), share=st.floats(0, 1))
def test_a_narrow_beam_returns_real_allowed_distinct_documents(
  data, size, share
):
  codes, seed = data
  index = trie.build(codes)
  scores, step_fn = tables(index, 3, seed)
  allowed = np.random.default_rng(seed).random(len(codes)) < share
  found = search(
    index, scores, step_fn, beam_size=size, allowed=jnp.asarray(allowed)
  )
  assert found.documents.shape == (3, size)
  for b in range(3):
    documents = np.asarray(found.documents[b])[np.asarray(found.where[b])]
    assert len(set(documents.tolist())) == len(documents)
    assert allowed[documents].all()
    assert len(documents) == min(size, allowed.sum())
    assert (codes[documents] == found.codes[b][found.where[b]]).all()


@SETTINGS
@given(data=docid_sets())
def test_log_softmax_scores_sum_to_one_over_the_corpus(data):
  codes, seed = data
  index = trie.build(codes)
  scores, step_fn = tables(index, 2, seed)
  found = search(index, scores, step_fn, beam_size=len(codes))
  np.testing.assert_allclose(beam.beam_mass(found), 0, atol=1e-5)


@SETTINGS
@given(data=docid_sets())
def test_the_trie_holds_the_codes(data):
  codes, _ = data
  index = trie.build(codes)
  everything = jnp.arange(len(codes))
  np.testing.assert_array_equal(beam.docids(index, everything), codes)
  prefixes = [
    np.unique(codes[:, : i + 1], axis=0) for i in range(len(codes[0]))
  ]
  assert index.sizes == tuple(map(len, prefixes))


def test_scores_are_differentiable_and_masked_slots_are_not_reached():
  codes = np.array([[0, 0], [0, 1], [1, 0]])
  index = trie.build(codes)
  scores, step_fn = tables(index, 1, 0)

  def total(scores, documents):
    return beam.score(
      scores, jnp.zeros((1, 1, 1)), index, documents, step_fn=step_fn
    ).sum()

  gradients = jax.grad(total)(scores, jnp.array([[0, 2]]))
  for level in gradients:
    assert np.isfinite(level).all()
  # log-softmax: the gradients of the edges of one node sum to zero
  np.testing.assert_allclose(gradients[0].sum(), 0, atol=1e-6)
  numeric = []
  for step in (-1e-2, 1e-2):
    moved = [scores[0].at[0, 0].add(step), scores[1]]
    numeric.append(total(moved, jnp.array([[0, 2]])))
  slope = (numeric[1] - numeric[0]) / 2e-2
  np.testing.assert_allclose(gradients[0][0, 0], slope, atol=1e-3)


def test_search_runs_under_jit_and_is_traced_once():
  index = trie.build(np.array([[0, 0], [0, 1], [1, 0]]))
  scores, step_fn = tables(index, 2, 0)
  traced = []

  @jax.jit
  def run(scores, index):
    traced.append(None)
    return search(index, scores, step_fn, beam_size=2)

  first = run(scores, index)
  again = run(jax.tree.map(lambda x: x + 1, scores), index)
  assert len(traced) == 1
  np.testing.assert_array_equal(first.documents, again.documents)


@pytest.mark.parametrize(
  ('codes', 'message'),
  [
    (np.zeros((0, 2)), 'non-empty'),
    (np.array([[0, -1]]), 'at least 0, got -1'),
    (np.array([[1, 2], [0, 0], [1, 2]]), 'documents 0 and 2'),
  ],
)
def test_bad_codes(codes, message):
  with pytest.raises(ValueError, match=message):
    trie.build(codes)


def test_bad_search():
  index = trie.build(np.array([[0], [1]]))
  scores, step_fn = tables(index, 1, 0)
  run = functools.partial(search, index, scores, step_fn)
  with pytest.raises(ValueError, match='beam_size must be at least 1, got 0'):
    run(beam_size=0)
  with pytest.raises(ValueError, match='log_softmax.*got .cosine.'):
    run(beam_size=1, scoring='cosine')

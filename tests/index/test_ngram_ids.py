import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.index import ngram_ids, uniqueness
from rag_jax.ops import beam
from rag_jax.ops import trie as tries


@pytest.mark.parametrize('stride', [1, 2])
def test_ngram_keys_agree_with_a_loop(stride):
  tokens = np.random.default_rng(0).integers(0, 4, (30, 9))
  tokens[:, 6:] *= tokens[:, 6:] > 1
  expected = []
  for owner, row in enumerate(tokens):
    keys = [tuple(row[i : i + 2].tolist()) for i in range(0, 8, stride)]
    expected += [(owner, k) for k in dict.fromkeys(keys) if 0 not in k]
  codes, owners = ngram_ids.ngram_keys(tokens, length=2, stride=stride)
  got = [
    (int(o), tuple(c.tolist())) for o, c in zip(owners, codes, strict=True)
  ]
  assert got == expected


@pytest.mark.parametrize(
  'sizes, words',
  [
    ({'length': 4}, 'length must be between 1 and .* got 4'),
    ({'length': 2, 'stride': 0}, 'stride must be at least 1, got 0'),
  ],
)
def test_errors_of_length_and_stride(sizes, words):
  with pytest.raises(ValueError, match=words):
    ngram_ids.ngram_keys(np.ones((2, 3), int), **sizes)


def test_frequent_words_have_small_codes_and_unknown_words_code_0():
  table = ngram_ids.fit_titles(['b a', 'B c', 'b'])
  assert table['words'].tolist() == ['b', 'a', 'c']
  codes = ngram_ids.title_codes(table, ['c B x a', ''], 3)
  assert codes.tolist() == [[3, 1, 0], [0, 0, 0]]


def test_a_search_by_keys_returns_each_document_once_by_its_best_key():
  rng = np.random.default_rng(1)
  tokens = rng.integers(1, 7, (12, 6))
  keys, owners = ngram_ids.ngram_keys(tokens, length=3)
  codes = uniqueness.append_uniqueness(keys)
  trie = tries.build(codes)
  queries = jnp.asarray(rng.normal(size=(5, 7)), jnp.float32)

  def step_fn(query, cache, frontier):  # a query is a score per token
    rows = jnp.arange(5)[:, None, None]
    scores = query[rows, jnp.minimum(frontier.tokens, 6)]
    return jnp.where(frontier.level < 3, scores, 0.0), cache

  options = {'step_fn': step_fn, 'scoring': 'log_softmax'}
  all_codes = jnp.asarray(np.tile(codes, (5, 1, 1)))

  @jax.jit
  def search(query):
    found = beam.search(
      query, (), trie, batch_size=5, beam_size=len(keys), **options
    )
    scores = beam.score(query, (), trie, all_codes, **options)
    return ngram_ids.by_document(found, owners), scores

  once, scores = jax.tree.map(np.asarray, search(queries))
  best = np.array([scores[:, owners == n].max(1) for n in range(12)]).T
  assert (once.where.sum(1) == 12).all()
  for row in range(5):
    documents = once.documents[row, :12]
    assert sorted(documents.tolist()) == list(range(12))
    np.testing.assert_allclose(once.scores[row, :12], best[row, documents])
    assert (np.diff(once.scores[row, :12]) <= 0).all()
    for document, code in zip(documents, once.codes[row], strict=False):
      place = np.flatnonzero((codes == code).all(1))
      assert owners[place].tolist() == [document]

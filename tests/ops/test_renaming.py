"""Random names of rare tokens, against loops."""

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.ops import renaming


def test_rare_tokens_by_counting():
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, 120, (60, 5)) * (rng.random((60, 5)) < 0.8)
  found = renaming.rare(tokens, 125)
  for token in range(125):
    count = sum(token in document for document in tokens.tolist())
    assert found[token] == (token > 0 and 1 <= count <= 3)
  assert 0 < found.sum() < 120
  some = np.flatnonzero(found)[::2]
  kept = renaming.rare(tokens, 125, kept=some.tolist())
  np.testing.assert_array_equal(kept, found & ~np.isin(np.arange(125), some))


def test_names_are_permutations_of_the_rare_tokens():
  is_rare = np.random.default_rng(0).random(40) < 0.4
  keys = jax.random.split(jax.random.key(0), 6)
  where = np.array([True] * 5 + [False])
  names = np.asarray(renaming.draw(keys, jnp.asarray(is_rare), where))
  rare = set(np.flatnonzero(is_rare).tolist())
  for own in names[:5]:
    assert {int(own[token]) for token in rare} == rare
    np.testing.assert_array_equal(own[~is_rare], np.flatnonzero(~is_rare))
  assert len({tuple(own) for own in names[:5].tolist()}) == 5
  np.testing.assert_array_equal(names[5], np.arange(40))


def test_citations_keep_their_numbers():
  names = jnp.array([[0, 2, 1, 3]])
  found = renaming.rename(names, jnp.array([[[1, 2, -1, 3, 0, -3]]]))
  assert found.tolist() == [[[2, 1, -1, 3, 0, -3]]]

"""Random names for rare tokens, so that a reader copies what it cannot know.

A reader that is trained from scratch on a small corpus learns by heart what its
documents say, and fails on documents that no training question asks about. If
each question exchanges the rare tokens of its texts at random, the texts alone
determine the answer. The same holds for the network that chooses the words of a
second search. Numbers can be left out, because they have an order.

Reference:
  Hermann et al., Teaching Machines to Read and Comprehend, 2015 (entities are
  anonymised and permuted for each question).
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

SHARE = 0.05  # a rare token is in at most this share of the documents


def rare(
  tokens: np.ndarray, vocab_size: int, *, kept: Sequence[int] = ()
) -> np.ndarray:
  """Tokens of at least one and of at most `SHARE` of the documents, bool[V].

  Args:
    tokens: int32[N, P], documents, 0 = padding.
    vocab_size: V.
    kept: tokens that are not rare, however few documents they are in.

  Example:
    >>> tokens = np.array([[5, 5, 6]] + [[5, 7, 0]] * 39)
    >>> rare(tokens, 8).nonzero()[0].tolist()
    [6]
  """
  counts = np.zeros(vocab_size, np.int64)
  for document in np.asarray(tokens):
    counts[np.unique(document)] += 1
  counts[[0, *kept]] = 0
  return (counts > 0) & (counts <= max(1, math.floor(SHARE * len(tokens))))


def draw(rng: jax.Array, is_rare: jax.Array, where: jax.Array) -> jax.Array:
  """A random permutation of the rare tokens for each question.

  Args:
    rng: PRNG keys [B].
    is_rare: bool[V].
    where: bool[B]; the others keep their tokens.

  Returns:
    int32[B, V], the new token of each token; tokens that are not rare keep
    theirs.

  Example:
    >>> keys = jax.random.split(jax.random.key(0), 1)
    >>> names = draw(keys, jnp.array([False, True, False, True]), jnp.ones(1))
    >>> sorted(names[0].tolist()), names[0, 0].item(), names[0, 2].item()
    ([0, 1, 2, 3], 0, 2)
  """
  size = is_rare.shape[0]
  number = jnp.arange(size)
  # Rare tokens first, in order and at random; both sorts are stable.
  ordered = jnp.argsort(~is_rare)

  def one(key, where):
    noise = jax.random.uniform(key, (size,))
    shuffled = jnp.argsort(jnp.where(is_rare, noise, 2.0))
    found = jnp.zeros(size, jnp.int32).at[ordered].set(shuffled)
    return jnp.where(where, found, number)

  return jax.vmap(one)(rng, where)


def rename(names: jax.Array, tokens: jax.Array) -> jax.Array:
  """The new tokens of int32[B, ...]; negative ones, citations, stay."""
  found = jax.vmap(lambda own, texts: own[texts])(names, jnp.abs(tokens))
  return jnp.where(tokens < 0, tokens, found)

"""Levels of given docids, against enumeration and `beam.score`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.ops import beam, teacher_forcing
from rag_jax.ops import trie as tries

# The last docid ends at its first code; its tail is no choice.
CODES = np.array(
  [[0, 0, 1], [0, 0, 2], [0, 1, 0], [2, 1, 0], [2, 3, 0], [4, 0, 0]]
)
TRIE = tries.build(CODES)
TABLE = np.random.default_rng(0).normal(size=TRIE.num_nodes).astype(np.float32)


def step_fn(params, cache, frontier):
  return params[frontier.children], cache


@functools.partial(jax.jit, static_argnames=('scoring', 'best'))
def found(lookahead=None, *, scoring='log_softmax', best=2):
  """The paths of all docids, and their scores by `beam.score`."""
  given = jnp.asarray(TABLE), (), TRIE, jnp.asarray(CODES)[None]
  options = {'step_fn': step_fn, 'lookahead': lookahead, 'scoring': scoring}
  paths = teacher_forcing.paths(*given, best=best, **options)
  return paths, beam.score(*given, **options)


@pytest.mark.parametrize(
  'scoring', ['log_softmax', 'inner_product', 'absolute']
)
def test_the_last_level_has_the_score_of_the_docid(scoring):
  own, score = found(jnp.asarray(TABLE[None] ** 2), scoring=scoring)
  assert np.asarray(own.total) == pytest.approx(np.asarray(score), abs=1e-6)
  assert np.asarray(own.own[..., -1]) == pytest.approx(
    np.asarray(score), abs=1e-6
  )


def test_codes_and_ranks_equal_enumeration():
  own, _ = found()
  for row, codes in enumerate(CODES):
    below = CODES
    before = 0.0
    for level, code in enumerate(codes[: TRIE.depth]):
      choices = np.unique(below[:, level])
      ended = len(below) == 1
      assert bool(own.chooses[0, row, level]) == (not ended)
      if ended:
        break
      where = np.asarray(own.where[0, row, level])
      shown = np.asarray(own.codes[0, row, level])[where]
      scores = np.asarray(own.scores[0, row, level])[where]
      assert len(shown) == min(2, len(choices)) and set(shown) <= set(choices)
      assert (np.diff(scores) <= 0).all()
      mass = np.exp(scores - before).sum()
      assert (
        mass == pytest.approx(1, abs=1e-5) if len(choices) < 3 else mass < 1
      )
      rank = int(own.rank[0, row, level])
      assert (rank == 0) == (shown[0] == code)
      assert rank < len(choices)
      before = float(own.own[0, row, level])
      if rank < 2:
        assert shown[rank] == code and scores[rank] == pytest.approx(before)
      below = below[below[:, level] == code]


def test_best_must_be_positive():
  with pytest.raises(ValueError, match='best must be'):
    found(best=0)

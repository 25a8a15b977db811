"""Links between documents: what they are, and the queries that follow them."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.index import links

VOCAB, COUNT, LENGTH = 60, 40, 16
DRAWN = 3000


@pytest.fixture(scope='module')
def tokens():
  """Documents of six frequent tokens, of names and of shared ones; padding."""
  rng = np.random.default_rng(0)
  found = rng.integers(1, 7, (COUNT, LENGTH))
  found[:, 2] = 7 + np.arange(COUNT)  # a name of each
  rows = iter(rng.permutation(COUNT))
  for token, size in ((50, 2), (51, 8), (52, 9), (53, 1), (54, 3)):
    for _ in range(size):
      found[next(rows), rng.integers(3, 12)] = token
  found[::3, 13:] = 0
  return found


@pytest.fixture(scope='module')
def found(tokens):
  return links.find(tokens, VOCAB)


@pytest.fixture(scope='module')
def draw(tokens, found):
  return jax.jit(
    functools.partial(
      links.draw,
      links=found,
      tokens=jnp.asarray(tokens),
      log_token_weight=jnp.linspace(0.0, 1.0, VOCAB),
    )
  )


@pytest.fixture(scope='module')
def drawn(draw):
  return jax.device_get(draw(jax.random.key(0), positions=jnp.arange(DRAWN)))


def holding(tokens, token):
  return np.flatnonzero((tokens == token).any(1)).tolist()


def shared(tokens, first, second):
  """The one rare token that two documents share."""
  [token] = {*tokens[first]} & {*tokens[second]} & {50, 51, 54}
  return int(token)


def test_links_are_tokens_of_two_to_eight_documents(tokens, found):
  every = {t: holding(tokens, t) for t in range(1, VOCAB)}
  linking = {t: rows for t, rows in every.items() if 2 <= len(rows) <= 8}
  assert {50, 51, 54} == set(linking)
  rows = {
    int(word): own[:count].tolist()
    for word, own, count in zip(
      found.words, found.documents, found.counts, strict=True
    )
  }
  assert rows == linking
  frequent = [len(every.get(t, ())) > 8 for t in range(VOCAB)]
  assert found.frequent.tolist() == frequent


def test_corpus_without_links():
  assert len(links.find(np.array([[5, 6], [7, 0]]), 8).words) == 0


def test_each_link_is_as_likely_in_both_directions(tokens, drawn):
  _, first, second = drawn
  assert (first != second).all()
  counted = collections.Counter()
  for a, b in zip(first, second, strict=True):
    counted[shared(tokens, a, b), int(a), int(b)] += 1
  for token, share in ((50, 1 / 2), (54, 1 / 6)):
    own = [n / DRAWN for key, n in counted.items() if key[0] == token]
    assert len(own) == 1 / share
    np.testing.assert_allclose(own, share / 3, atol=0.03)


def test_a_query_does_not_name_the_second_document(tokens, found, drawn):
  frequent = np.asarray(found.frequent)
  for query, a, b in zip(*drawn, strict=True):
    words = set(query[query != 0].tolist())
    assert words <= set(tokens[a].tolist()) | set(tokens[b].tolist())
    assert all(frequent[word] for word in words & set(tokens[b].tolist()))


def test_parts_of_a_query(tokens, found, drawn):
  """Names of the first document; what is beside the token, in the text."""
  width = 2 * links.REACH
  bounds = np.cumsum([links.NAMES, width, links.WORDS])
  names_found, reaches = set(), collections.Counter()
  for query, a, b in zip(*drawn, strict=True):
    names, before, words, after = np.split(query, bounds)
    names, words = names[names != 0], words[words != 0]
    assert len(names) >= 1 and len(set(names)) == len(names)
    assert not set(names) & set(tokens[b])
    names_found.add(len(names))
    assert len(set(words)) == len(words) > 0
    assert np.asarray(found.frequent)[words].all()
    token = shared(tokens, a, b)
    for part, row in ((before, a), (after, b)):
      place = np.flatnonzero(tokens[row] == token)[0]
      padded = np.pad(tokens[row], links.REACH)
      beside = np.delete(padded[place : place + width + 1], links.REACH)
      kept = part != 0
      np.testing.assert_array_equal(part[kept], beside[kept])
      distance = np.abs(np.arange(width) - links.REACH + 0.5) + 0.5
      reaches[distance[kept].max(initial=0)] += 1
  assert names_found == {*range(1, links.NAMES + 1)}
  assert set(reaches) == {0, *range(1, links.REACH + 1)}


def test_a_query_depends_on_its_position_alone(draw, drawn):
  part = draw(jax.random.key(0), positions=jnp.arange(20, 30))
  for own, every in zip(part, drawn, strict=True):
    np.testing.assert_array_equal(own, every[20:30])

"""Docids that are read from text: digits, title words, n-grams.

N-grams are several keys a document, each with a row of its own in the trie:
`ngram_keys` makes them, `uniqueness.append_uniqueness` tells those apart that
documents share, a search finds keys, and `by_document` whose they are.
"""

import collections
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax import types
from rag_jax.ops import beam, masking


def digits(numbers: np.ndarray, length: int) -> np.ndarray:
  """Base-10 digits, the first first, padded with zeros on the left.

  Args:
    numbers: int[N], at least 0.
    length: L, digits of each.

  Returns:
    int32[N, L].

  Example:
    >>> digits(np.array([7, 120]), 3).tolist()
    [[0, 0, 7], [1, 2, 0]]

  Reference:
    Tay et al., Transformer Memory as a Differentiable Search Index, 2022,
    naively structured string identifiers.
  """
  powers = 10 ** np.arange(length - 1, -1, -1, dtype=np.int64)
  return (numbers[:, None] // powers % 10).astype(np.int32)


def fit_titles(titles: Sequence[str]) -> dict[str, np.ndarray]:
  """The words of all titles, the most frequent first.

  Returns:
    'words', str[W]; word i has the code i + 1, as 0 is padding and whatever
    is not listed.
  """
  counts = collections.Counter(w for t in titles for w in t.lower().split())
  words = sorted(counts, key=lambda word: (-counts[word], word))
  return {'words': np.asarray(words, np.str_)}


def title_codes(
  quantiser: dict[str, np.ndarray], titles: Sequence[str], num_levels: int
) -> np.ndarray:
  """The first words of each title.

  Args:
    quantiser: what `fit_titles` returned.
    titles: M titles.
    num_levels: words of each.

  Returns:
    int32[M, num_levels], padded with 0.

  Example:
    >>> table = fit_titles(['The owl', 'the fox'])
    >>> title_codes(table, ['The fox', 'Owl'], 3).tolist()
    [[1, 2, 0], [3, 0, 0]]
  """
  table = {str(w): i for i, w in enumerate(quantiser['words'], start=1)}
  codes = np.zeros((len(titles), num_levels), np.int32)
  for row, title in enumerate(titles):
    for level, word in enumerate(title.lower().split()[:num_levels]):
      codes[row, level] = table.get(word, 0)
  return codes


def ngram_keys(
  tokens: np.ndarray, *, length: int, stride: int = 1
) -> tuple[np.ndarray, np.ndarray]:
  """Several keys a document: the n-grams of its tokens.

  A document's key appears once, and different documents may share one: they
  are to be found by the keys that they do not share.

  Args:
    tokens: int[N, P], 0 = padding.
    length: n, tokens of a key.
    stride: tokens from the start of a key to the start of the next.

  Returns:
    Keys int32[M, length] and the documents that they belong to, int32[M], in
    the order of the documents and of their tokens. N-grams with padding are
    left out.

  Raises:
    ValueError: if length or stride is out of range.

  Example:
    >>> tokens = np.array([[5, 6, 5, 6], [8, 9, 0, 0]])
    >>> codes, owners = ngram_keys(tokens, length=2)
    >>> codes.tolist(), owners.tolist()
    ([[5, 6], [6, 5], [8, 9]], [0, 0, 1])

  Reference:
    Bevilacqua et al., Autoregressive Search Engines (SEAL), 2022; Li et al.,
    Multiview Identifiers Enhanced Generative Retrieval (MINDER), 2023.
  """
  tokens = np.asarray(tokens)
  if not 1 <= length <= tokens.shape[1]:
    raise ValueError(
      f'length must be between 1 and the tokens of a document '
      f'({tokens.shape[1]}), got {length}. Give shorter keys.'
    )
  if stride < 1:
    raise ValueError(
      f'stride must be at least 1, got {stride}. Give 1 or more.'
    )
  windows = np.lib.stride_tricks.sliding_window_view(tokens, length, axis=1)
  windows = windows[:, ::stride]
  owners, places = np.nonzero((windows != types.PAD).all(axis=-1))
  keys = windows[owners, places]
  order = np.lexsort((*keys.T[::-1], owners))  # stable: the first one leads
  new = np.ones(len(order), bool)
  new[1:] = (keys[order[1:]] != keys[order[:-1]]).any(axis=1)
  new[1:] |= owners[order[1:]] != owners[order[:-1]]
  kept = np.sort(order[new])
  return keys[kept].astype(np.int32), owners[kept].astype(np.int32)


def by_document(
  candidates: types.Candidates, owners: jax.Array
) -> types.Candidates:
  """Documents by the keys that were found: each once, by its best key.

  Args:
    candidates: keys, best first; rows of `owners` for documents.
    owners: int[M], the document that each key belongs to.

  Returns:
    As many slots, documents first: those that their second key and later ones
    would fill are not real. So search for more keys than documents.

  Example:
    >>> from rag_jax.index import uniqueness
    >>> from rag_jax.ops import trie as tries
    >>> tokens = np.array([[5, 6, 7], [5, 6, 8]])
    >>> keys, owners = ngram_keys(tokens, length=2)
    >>> trie = tries.build(uniqueness.append_uniqueness(keys))
    >>> def step_fn(query, cache, frontier):  # likes tokens of the query
    ...   liked = frontier.tokens[..., None] == query[:, None, None]
    ...   return liked.any(-1) * 1.0, cache
    >>> found = beam.search(jnp.array([[6, 8]]), (), trie, step_fn=step_fn,
    ...                     batch_size=1, beam_size=4, scoring='log_softmax')
    >>> found = by_document(found, owners)
    >>> found.documents.tolist(), found.where.tolist()
    ([[1, 0, 0, 0]], [[True, True, False, False]])
    >>> found.codes[0, 0].tolist()  # the key, and the number for uniqueness
    [6, 8, 0]

  Reference:
    Bevilacqua et al., Autoregressive Search Engines (SEAL), 2022; Li et al.,
    Multiview Identifiers Enhanced Generative Retrieval (MINDER), 2023. Both
    add up the scores of a document's keys, this takes the best.
  """
  documents = jnp.asarray(owners)[candidates.documents]
  same = documents[:, :, None] == documents[:, None]  # [B, K, K]
  before = jnp.tril(same & candidates.where[:, None], -1).any(-1)
  where = candidates.where & ~before
  found = types.Candidates(
    documents=jnp.where(where, documents, 0),
    codes=jnp.where(where[..., None], candidates.codes, 0),
    scores=jnp.where(where, candidates.scores, masking.NEG_INF),
    where=where,
  )
  return beam.reorder(found, jnp.argsort(~where, axis=1, stable=True))

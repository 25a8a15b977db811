"""Docids from text: digits, title words, n-grams.

With n-grams, a document has several keys, each a separate row of the trie.
`ngram_keys` extracts them, `uniqueness.append_uniqueness` makes keys unique
that several documents share, a search returns keys, and `by_document` maps
them to documents.
"""

import collections
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax import types
from rag_jax.ops import beam, masking


def digits(numbers: np.ndarray, length: int) -> np.ndarray:
  """Base-10 digits, most significant first, with leading zeros.

  Args:
    numbers: int[N], at least 0.
    length: L, digits per number.

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
  """The vocabulary of all titles, most frequent word first.

  Returns:
    'words', str[W]; word i has the code i + 1. Code 0 is padding and unknown
    words.
  """
  counts = collections.Counter(w for t in titles for w in t.lower().split())
  words = sorted(counts, key=lambda word: (-counts[word], word))
  return {'words': np.asarray(words, np.str_)}


def title_codes(
  quantiser: dict[str, np.ndarray], titles: Sequence[str], num_levels: int
) -> np.ndarray:
  """The first words of each title.

  Args:
    quantiser: from `fit_titles`.
    titles: M titles.
    num_levels: words per title.

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
  """The n-grams of each document, as keys for retrieval.

  A document has each of its keys once. Several documents may share a key.

  Args:
    tokens: int[N, P], 0 = padding.
    length: n, tokens per key.
    stride: tokens between the starts of successive keys.

  Returns:
    Keys int32[M, length] and their documents int32[M], in the order of the
    documents and of their tokens. N-grams with padding are excluded.

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
      f'({tokens.shape[1]}), got {length}. Set length within these bounds.'
    )
  if stride < 1:
    raise ValueError(
      f'stride must be at least 1, got {stride}. Set stride=1 or more.'
    )
  windows = np.lib.stride_tricks.sliding_window_view(tokens, length, axis=1)
  windows = windows[:, ::stride]
  owners, places = np.nonzero((windows != types.PAD).all(axis=-1))
  keys = windows[owners, places]
  order = np.lexsort((*keys.T[::-1], owners))  # stable: keeps the first one
  new = np.ones(len(order), bool)
  new[1:] = (keys[order[1:]] != keys[order[:-1]]).any(axis=1)
  new[1:] |= owners[order[1:]] != owners[order[:-1]]
  kept = np.sort(order[new])
  return keys[kept].astype(np.int32), owners[kept].astype(np.int32)


def by_document(
  candidates: types.Candidates, owners: jax.Array
) -> types.Candidates:
  """Maps retrieved keys to documents; a document keeps its best key only.

  Args:
    candidates: keys, best first; `documents` are indices into `owners`.
    owners: int[M], the document of each key.

  Returns:
    As many candidates, documents first. The slots of further keys of a document
    are padding, so search for more keys than documents.

  Example:
    >>> from rag_jax.index import uniqueness
    >>> from rag_jax.ops import trie as tries
    >>> tokens = np.array([[5, 6, 7], [5, 6, 8]])
    >>> keys, owners = ngram_keys(tokens, length=2)
    >>> trie = tries.build(uniqueness.append_uniqueness(keys))
    >>> def step_fn(query, cache, frontier):  # scores tokens of the query 1
    ...   matches = frontier.tokens[..., None] == query[:, None, None]
    ...   return matches.any(-1) * 1.0, cache
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
    sum the scores of a document's keys; this function takes the maximum.
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

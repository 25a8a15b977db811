"""Expected sizes of a trie, before there are docids.

Codes are uniform and independent, as random docids are and as those of residual
k-means nearly are; then only the numbers of documents and codes matter.
"""

import math

import numpy as np

from rag_jax.ops import docid_layout


def expected(
  documents: int, num_codes: int, num_levels: int
) -> docid_layout.Capacity:
  """The room that a trie of random docids needs.

  Of V^d prefixes of d codes, each has Binomial(N, V^-d) documents: V^d (1 - (1
  - V^-d)^N) have one or more, N (1 - V^-d)^(N - 1) have one. A prefix with two
  or more is an inner node, and an occupied prefix below it a node. A last level
  numbers the documents that share all codes.

  Args:
    documents: N.
    num_codes: V, codes of a level.
    num_levels: levels before the one for uniqueness.

  Returns:
    A capacity, whose `memory` and `num_nodes` are the expected ones.

  Example:
    >>> found = expected(100_000, 256, 4)
    >>> found.nodes, found.num_nodes
    ((256, 51287, 77960, 593, 2), 130098)
  """
  levels = num_levels + 1
  occupied, single = [1.0], [0.0 if documents > 1 else 1.0]
  for depth in range(1, levels):
    prefixes = float(num_codes) ** depth
    log_empty = documents * math.log1p(-1 / prefixes)
    occupied.append(-prefixes * math.expm1(log_empty))
    alone = (documents - 1) * math.log1p(-1 / prefixes)
    single.append(documents * math.exp(alone))
  occupied.append(float(documents))
  single.append(float(documents))
  # Nodes at depths 1, 2, ...: occupied, below a prefix of two or more.
  nodes = [occupied[d + 1] - single[d] for d in range(levels)]
  inner = [o - s for o, s in zip(occupied, single, strict=True)]
  depth = max(1, sum(number >= 0.5 for number in inner))
  largest = _largest(documents, float(num_codes) ** num_levels)
  values = (*[num_codes] * num_levels, largest)
  ended = np.cumsum([0.0, *(nodes[d] - inner[d + 1] for d in range(depth))])
  ended[-1] = documents
  parents = [max(round(number), 1) for number in inner[:depth]]
  return docid_layout.Capacity(
    documents=documents,
    nodes=tuple(max(round(number), 1) for number in nodes[:depth]),
    parents=tuple(parents),
    tails=tuple(round(ended[min(d, depth)]) for d in range(levels)),
    branching=tuple(
      min(values[d], max(2, _widest(documents / parents[d], values[d])))
      for d in range(depth)
    ),
    num_values=values,
  )


def large(documents: int, num_codes: int, depth: int, least: int) -> int:
  """Expected prefixes of random docids that so many documents share.

  Args:
    documents: N.
    num_codes: V, codes of a level.
    depth: d, codes of a prefix.
    least: documents of a prefix, at least.

  Returns:
    V^d P(X >= least), for X by Poisson's law with mean N / V^d.

  Example:
    >>> large(100_000, 256, 2, 1), large(100_000, 256, 2, 4)
    (51287, 4518)
  """
  prefixes = float(num_codes) ** depth
  rate = documents / prefixes
  fewer = sum(
    math.exp(n * math.log(rate) - rate - math.lgamma(n + 1))
    for n in range(least)
  )
  return max(round(prefixes * (1 - fewer)), 0)


def _widest(documents: float, values: int) -> int:
  """Distinct codes of about so many documents, three deviations above."""
  mean = -values * math.expm1(documents * math.log1p(-1 / max(values, 2)))
  return math.ceil(mean + 3 * math.sqrt(mean))


def _largest(documents: int, prefixes: float) -> int:
  """Documents of the fullest of so many prefixes, by Poisson's law."""
  rate = documents / prefixes
  if prefixes == 1:
    return documents
  count, log_tail = max(int(rate), 1), math.inf
  while log_tail > math.log(0.5):
    count += 1
    # P(X >= count), by its first term and the ratio of the next ones.
    log_first = count * math.log(rate) - rate - math.lgamma(count + 1)
    ratio = rate / (count + 1)
    more = -math.log1p(-ratio) if ratio < 1 else math.inf
    log_tail = math.log(prefixes) + log_first + more
  return count

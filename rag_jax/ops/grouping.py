"""Rankings of documents from rankings of their passages."""

import numpy as np

from rag_jax import types


def by_group(
  rows: types.Array, groups: types.Array
) -> tuple[np.ndarray, np.ndarray]:
  """Keeps the first row of each group in a ranking, in order.

  Args:
    rows: int[n, K], rankings, best first; -1 = padding, anywhere.
    groups: int[N], the group of each row.

  Returns:
    int[n, K], the groups, each once, followed by -1; and int[n, K], the place
    of each in its ranking, which is that of its best row; 0 for padding.

  Example:
    >>> found, places = by_group(np.array([[2, 0, -1, 1]]), np.array([5, 6, 5]))
    >>> found.tolist(), places.tolist()
    ([[5, 6, -1, -1]], [[0, 3, 0, 0]])
  """
  rows, groups = np.asarray(rows), np.asarray(groups)
  own = np.where(rows >= 0, groups[np.maximum(rows, 0)], -1)
  order = np.argsort(own, axis=1, kind='stable')
  ordered = np.take_along_axis(own, order, axis=1)
  is_first = np.ones(own.shape, bool)
  is_first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
  kept = np.zeros(own.shape, bool)
  np.put_along_axis(kept, order, is_first & (ordered >= 0), axis=1)
  places = np.argsort(~kept, axis=1, kind='stable')
  where = np.take_along_axis(kept, places, axis=1)
  found = np.take_along_axis(own, places, axis=1)
  return np.where(where, found, -1), np.where(where, places, 0)

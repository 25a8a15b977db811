"""Checks of the arguments of a beam search."""

from typing import Any

import jax
import numpy as np

from rag_jax.ops import checks
from rag_jax.ops import trie as tries

SCORINGS = ('log_softmax', 'vocabulary', 'inner_product', 'absolute')


def check_scoring(scoring: str, *, logits: bool = True) -> None:
  """Raises a ValueError if a scoring is unknown, or needs scores of codes."""
  if scoring not in SCORINGS:
    raise ValueError(
      f'scoring must be one of {", ".join(SCORINGS)}, got {scoring!r}. '
      'The module beam says what each means.'
    )
  if scoring == 'vocabulary' and not logits:
    raise ValueError(
      "scoring 'vocabulary' needs logits, the scores of all codes, got those "
      'of edges. Take log_softmax, or a step_fn that scores all codes.'
    )


def check_allowed(trie: tries.Trie, allowed: Any, batch_size: Any) -> jax.Array:
  """An allow-list as a mask over documents, or a ValueError."""
  found = checks.allowed(allowed, trie.num_documents, batch_size)
  if not isinstance(allowed, jax.core.Tracer):  # an array may become one
    empty = ~np.atleast_2d(np.asarray(allowed)).any(axis=1)
    if empty.any():
      raise ValueError(
        f'allowed must hold a document for every query, got none for query '
        f'{int(np.argmax(empty))}. Leave it out to allow all.'
      )
  return found


def allow(
  trie: tries.Trie, allowed: Any, batch_size: Any
) -> tuple[jax.Array, ...] | None:
  """The allow-list as the flags of nodes that a search reads, or None."""
  if allowed is None:
    return None
  return tries.allow(trie, check_allowed(trie, allowed, batch_size))

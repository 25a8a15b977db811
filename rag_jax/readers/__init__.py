"""Readers: the likelihood of an answer on each passage, and the answer.

`make` makes one of its configuration. All kinds have the same functions, see
`base.Reader`; a new kind is a file here and a line in the table.
"""

import functools
from collections.abc import Callable

from rag_jax.readers import base, bert, causal, extractive, fid, t5

_MAKE: dict[str, Callable[[base.ReaderConfig], base.Reader]] = {
  'extractive': extractive.make,  # points at a span; from nothing
  'bert': bert.make,  # points at a span and says how relevant a passage is
  'fid': fid.make,  # writes from all passages at once; from nothing
  't5': t5.make,  # likewise
  'causal': causal.make,  # a language model, prompted with each passage
}
KINDS = tuple(_MAKE)
Reader, ReaderConfig = base.Reader, base.ReaderConfig


@functools.cache
def make(config: base.ReaderConfig) -> base.Reader:
  """Makes a reader.

  Args:
    config: its kind and sizes; equal ones give the same object, which can so
      be a static argument of a compiled function.

  Returns:
    Its functions.

  Raises:
    ValueError: if there is no such kind, or it cannot do what is asked.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> reader = make(base.ReaderConfig(width=8, num_heads=2))
    >>> params = reader.init(jax.random.key(0), vocab_size=10)
    >>> query, passages = jnp.array([[4, 5]]), jnp.array([[[4, 5, 6, 7]]])
    >>> memory = reader.read(params, query, passages)
    >>> reader.log_likelihood(params, memory, jnp.array([[[6]]])).shape
    (1, 1, 1)
    >>> reader.points, reader.marginals
    (True, ('sequence',))
  """
  if config.kind not in _MAKE:
    raise ValueError(
      f'reader.kind must be one of {", ".join(KINDS)}, got {config.kind!r}. '
      'Set --config.reader.kind.'
    )
  reader = _MAKE[config.kind](config)
  for name in ('reranks', 'null_document'):
    if getattr(config, name) and reader.relevance is None:
      raise ValueError(
        f'reader.{name} needs a reader that says how relevant a passage is, '
        f'got reader.kind {config.kind!r}. Set --config.reader.{name}=False or '
        '--config.reader.kind=bert.'
      )
  if config.marginal and config.marginal not in reader.marginals:
    raise ValueError(
      f'reader.marginal must be one of {", ".join(reader.marginals)} for '
      f'reader.kind {config.kind!r}, got {config.marginal!r}. '
      'Set --config.reader.marginal.'
    )
  return reader

"""Readers: the likelihood of a given answer on each passage, and the answer.

`make` builds a reader from its configuration. All kinds have the interface
`base.Reader`.
"""

import functools
from collections.abc import Callable

from rag_jax.readers import (
  base,
  bert,
  causal,
  extractive,
  fid,
  sentences,
  t5,
)

_MAKE: dict[str, Callable[[base.ReaderConfig], base.Reader]] = {
  'extractive': extractive.make,  # spans and relevance; randomly initialised
  'bert': bert.make,  # answer spans and passage relevance; pretrained BERT
  'fid': fid.make,  # fusion-in-decoder; randomly initialised
  'sentences': sentences.make,  # selects and cites sentences; from scratch
  't5': t5.make,  # fusion-in-decoder; pretrained T5
  'causal': causal.make,  # a pretrained language model, one prompt per passage
}
KINDS = tuple(_MAKE)
Reader, ReaderConfig = base.Reader, base.ReaderConfig


@functools.cache
def make(config: base.ReaderConfig) -> base.Reader:
  """Makes a reader.

  Args:
    config: kind and sizes. Equal configurations give the same object, so that a
      reader can be a static argument of a jitted function.

  Returns:
    The functions of the reader.

  Raises:
    ValueError: if the kind is unknown or does not support a field.

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
        f'reader.{name} needs a reader that scores the relevance of passages, '
        f'got reader.kind {config.kind!r}. Set --config.reader.{name}=False or '
        '--config.reader.kind=extractive.'
      )
  if config.marginal and config.marginal not in reader.marginals:
    raise ValueError(
      f'reader.marginal must be one of {", ".join(reader.marginals)} for '
      f'reader.kind {config.kind!r}, got {config.marginal!r}. '
      'Set --config.reader.marginal.'
    )
  return reader

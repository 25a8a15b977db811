"""The fusion-in-decoder reader on a pretrained T5; see `fusion`.

With one passage of weight 1, it equals the original T5. It has no copy
mechanism.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rag_jax import types
from rag_jax.nn import generate, published, t5, t5_generation, t5_weights
from rag_jax.nn import weights as weight_files
from rag_jax.ops import losses
from rag_jax.readers import base, fusion, plain_text

START, END = 0, 1  # token ids of every T5; the start token is padding


class Memory(NamedTuple):
  """Encoded passages, each preceded by the question."""

  states: jax.Array  # float32[B, K, S, W], S = Q + P + 1
  where: jax.Array  # bool[B, K, S], True = real


def make(config: base.ReaderConfig) -> base.Reader:
  """Makes the reader; see `readers.make`."""
  base.check(config, published=True)

  def init(
    rng: jax.Array, *, vocab_size: int, pretrained: Any = None
  ) -> base.Params:
    del rng, vocab_size
    return {'t5': pretrained}

  return base.Reader(
    init=init,
    read=functools.partial(_read, config),
    points=False,
    marginals=('fusion',),
    load=functools.partial(_load, config),
    published_fields=functools.partial(_published_fields, config),
    text_inputs=plain_text.INPUTS,
    end_token=END,
    **fusion.functions(
      functools.partial(_force, config),
      functools.partial(_attend, config),
      functools.partial(_write, config),
      functools.partial(_sample, config),
      end=END,
    ),
  )


def _published_fields(config):
  """The sizes of the weights, if they are there; see `base.Reader`."""
  names = ('width', 'num_layers', 'num_heads', 'mlp_dim')
  try:
    folder = published.resolve(config.weights, 'config.json').parent
  except ValueError:  # a trained run needs no published files
    return {}
  sizes = weight_files.t5_config(folder)
  return {name: getattr(sizes, name) for name in names}


def _load(config):
  """Loads `config.weights`; see `base.Reader`."""
  folder = published.folder(config.weights)
  sizes = weight_files.t5_config(folder)
  base.check_sizes('reader', config, sizes)
  state = weight_files.read(folder)
  params = t5_weights.from_state_dict(state, sizes)
  supported = t5.sizes(params, num_heads=sizes.num_heads)
  for name in ('epsilon', 'max_distance'):
    if getattr(supported, name) != getattr(sizes, name):
      raise ValueError(
        f'reader.weights must be a T5 with {name} {getattr(supported, name)}, '
        f'got {getattr(sizes, name)} in {config.weights!r}. Set '
        '--config.reader.weights to another T5.'
      )
  return base.Published(params)


def _read(config, params, query, passages):
  """Encodes question + passage + end token; see `base.Reader`."""
  batch, count, _ = passages.shape
  query = jnp.where(query == END, types.PAD, query)[:, None]
  query = jnp.broadcast_to(query, (batch, count, query.shape[-1]))
  end = jnp.full((batch, count, 1), END, query.dtype)
  tokens = jnp.concatenate([query, passages, end], axis=-1)
  tokens = tokens.reshape(batch * count, -1)
  # Padding moves to the end, since it would shift T5's relative positions.
  order = jnp.argsort(tokens == types.PAD, axis=1, stable=True)
  tokens = jnp.take_along_axis(tokens, order, axis=1)
  where = tokens != types.PAD
  sizes = dataclasses.replace(_sizes(config, params), remat=config.remat)
  states = t5.encode(params['t5'], sizes, tokens, where)
  return Memory(
    states.reshape(batch, count, *states.shape[1:]),
    where.reshape(batch, count, -1),
  )


def _sizes(config, params):
  return t5.sizes(params['t5'], num_heads=config.num_heads)


def _join(memory, weights):
  """Concatenates passages: states, mask and log weight of each token."""
  states, where = memory
  batch = len(states)
  bias, support = losses.log_weights(weights)
  where = where & support[..., None]
  bias = jnp.broadcast_to(bias[..., None], where.shape)
  states = states.reshape(batch, -1, states.shape[-1])
  return states, where.reshape(batch, -1), bias.reshape(batch, -1)


def _shift(answer):
  """The decoder input for teacher forcing, int32[B, A]."""
  return jnp.pad(answer[:, :-1], ((0, 0), (1, 0)), constant_values=START)


def _force(config, params, memory, weights, answer):
  """Log-probabilities float32[B, A] of a given answer; see `fusion.Force`."""
  states, where, bias = _join(memory, weights)
  sizes = _sizes(config, params)
  logits = t5.decode(
    params['t5'], sizes, states, where, _shift(answer), bias=bias
  )
  return fusion.log_probabilities(logits, answer)


def _attend(config, params, memory, weights, answer):
  """Cross-attention float32[B, A, S]; see `fusion.Force`."""
  states, where, bias = _join(memory, weights)
  sizes = _sizes(config, params)
  return t5.attention(
    params['t5'], sizes, states, where, _shift(answer), bias=bias
  )


def _write(config, params, memory, weights):
  """Greedy decoding, scoring the end token too; see `fusion.Write`."""
  found = _generate(config, params, memory, weights, generate.greedy)
  tokens = found.tokens[:, 0]
  return jnp.where(tokens == END, types.PAD, tokens), found.scores[:, 0]


def _sample(config, params, memory, weights, rng, how):
  """Draws an answer; see `fusion.Sample`."""
  draw = functools.partial(generate.sample, rng, how=how)
  return _generate(config, params, memory, weights, draw).tokens[:, 0]


def _generate(config, params, memory, weights, write):
  """Answers by `generate.greedy` or `generate.sample`."""
  sizes, length = _sizes(config, params), config.max_answer_tokens
  states, where, bias = _join(memory, weights)
  logits, shared, cache = t5_generation.start(
    params['t5'], sizes, states, where, length, start_token=START, bias=bias
  )
  return write(
    functools.partial(t5_generation.step, params['t5'], sizes, shared),
    logits,
    cache,
    end_token=END,
    max_length=length,
  )

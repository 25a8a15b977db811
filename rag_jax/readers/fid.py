"""The randomly initialised fusion-in-decoder reader with a copy mechanism.

Each generated token is a vocabulary token or is copied from a passage, under
one softmax; see `fusion`.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rag_jax import types
from rag_jax.nn import question_passage, transformer
from rag_jax.ops import losses, masking, sampling
from rag_jax.readers import base, fusion

BOS, EOS = 1, 2  # token ids of the start and end of an answer


class Memory(NamedTuple):
  """Encoded passages, each preceded by the question."""

  states: jax.Array  # float32[B, K, Q + P, W]
  tokens: jax.Array  # int32[B, K, Q + P], 0 = padding


def make(config: base.ReaderConfig) -> base.Reader:
  """Makes the reader; see `readers.make`."""
  base.check(config, published=False)
  transformer.check_heads('reader', config.width, config)

  def init(
    rng: jax.Array, *, vocab_size: int, pretrained: Any = None
  ) -> base.Params:
    del pretrained
    query = jnp.ones((1, 1), jnp.int32)
    network = _Network(config, vocab_size)
    found = network.init(
      rng, query, query[None], jnp.ones((1, 1)), query, method='write'
    )
    return found['params']

  def read(
    params: base.Params, query: jax.Array, passages: jax.Array
  ) -> Memory:
    network = _Network(config, question_passage.vocab_size(params))
    return Memory(
      *transformer.apply(network, params, query, passages, method='encode')
    )

  return base.Reader(
    init=init,
    read=read,
    points=False,
    marginals=('fusion',),
    end_token=EOS,
    **fusion.functions(
      functools.partial(_force, config),
      functools.partial(_attend, config),
      functools.partial(_write, config),
      functools.partial(_sample, config),
      end=EOS,
    ),
  )


class _Network(question_passage.Encoder):
  """The encoder with a decoder that can copy."""

  def setup(self):
    super().setup()
    config = self.config
    self.decoder = transformer.Decoder(
      config.num_layers, config.num_heads, config.mlp_dim
    )
    self.copy_query = nn.Dense(config.width, use_bias=False)

  def write(self, query, passages, weights, prefix):
    """Next-token logits float32[B, A, V] after each token of prefix [B, A]."""
    return self.decode(*self.encode(query, passages), weights, prefix)

  def decode(self, states, tokens, weights, prefix, index=None):
    """As `write`, given the results of `encode`; with `index` [B, 1, V]."""
    batch = tokens.shape[0]
    bias, support = losses.log_weights(weights)
    where = (tokens != types.PAD) & support[..., None]
    bias = jnp.broadcast_to(bias[..., None], where.shape).reshape(batch, 1, -1)
    memory = states.reshape(batch, -1, states.shape[-1])
    where, tokens = where.reshape(batch, -1), tokens.reshape(batch, -1)
    x = self.decoder(self.embedding(prefix), memory, where, bias=bias)
    if index is not None:
      x = jax.lax.dynamic_slice_in_dim(x, index, 1, axis=1)
    scale = self.config.width**-0.5
    words = self.embedding.attend(x * scale)
    copies = jnp.einsum('baw,bsw->bas', self.copy_query(x), memory) * scale
    copies = jnp.where(where[:, None], copies + bias, masking.NEG_INF)
    logits = _add_copies(words, copies, tokens)
    return logits.at[..., types.PAD].set(masking.NEG_INF)  # never generated


def _add_copies(words, copies, tokens):
  """Adds copy logits [B, A, S] of tokens [B, S] to word logits [B, A, V].

  Entry v is log(exp(words[v]) + sum of exp(copies[s]) with tokens[s] = v).
  """
  best = jnp.maximum(copies.max(-1), words.max(-1))[..., None]
  best = jax.lax.stop_gradient(best)
  rows = jnp.arange(tokens.shape[0])[:, None]
  total = jnp.exp(words - best)
  add = jax.vmap(  # over the tokens of the answer
    lambda total, share: total.at[rows, tokens].add(share), 1, 1
  )
  total = add(total, jnp.exp(copies - best))
  # Avoids log 0 after underflow.
  return best + jnp.log(jnp.maximum(total, 1e-30))


def _shift(answer):
  """The decoder input for teacher forcing, int32[B, A]."""
  return jnp.pad(answer[:, :-1], ((0, 0), (1, 0)), constant_values=BOS)


def _force(config, params, memory, weights, answer):
  """Log-probabilities float32[B, A] of a given answer; see `fusion.Force`."""
  network = _Network(config, question_passage.vocab_size(params))
  logits = transformer.apply(
    network, params, *memory, weights, _shift(answer), method='decode'
  )
  return fusion.log_probabilities(logits, answer)


def _attend(config, params, memory, weights, answer):
  """Cross-attention float32[B, A, S]; see `fusion.Force`."""
  network = _Network(config, question_passage.vocab_size(params))
  _, state = transformer.apply(
    network,
    params,
    *memory,
    weights,
    _shift(answer),
    method='decode',
    mutable=['intermediates'],
  )
  blocks = state['intermediates']['decoder'].values()
  found = [block['cross_attention']['weights'][0].mean(1) for block in blocks]
  return sum(found) / len(found)


def _write(config, params, memory, weights):
  """Greedy decoding; see `fusion.Write`."""
  tokens, score = _generate(
    config, params, memory, weights, lambda _, logits: logits.argmax(axis=-1)
  )
  return jnp.where(tokens == EOS, types.PAD, tokens), score


def _sample(config, params, memory, weights, rng, how):
  """Draws an answer; see `fusion.Sample`."""

  def draw(index, log_probs):
    keys = jax.vmap(jax.random.fold_in, (0, None))(rng, index)
    return sampling.nucleus(keys, log_probs, **dataclasses.asdict(how))

  return _generate(config, params, memory, weights, draw)[0]


def _generate(config, params, memory, weights, pick):
  """Tokens [B, A] with the end token, and log-probabilities [B].

  `pick` takes the position and log-probabilities [B, V], and gives tokens [B].
  """
  length, batch = config.max_answer_tokens, memory.tokens.shape[0]
  network = _Network(config, question_passage.vocab_size(params))

  def step(carry):
    index, tokens, score, done = carry
    logits = transformer.apply(
      network,
      params,
      *memory,
      weights,
      _shift(tokens),
      index,
      method='decode',
    )
    log_probs = jax.nn.log_softmax(logits[:, 0])
    chosen = pick(index, log_probs)
    gain = jnp.take_along_axis(log_probs, chosen[:, None], axis=1)[:, 0]
    score = score + jnp.where(done, 0.0, gain)
    tokens = tokens.at[:, index].set(jnp.where(done, types.PAD, chosen))
    return index + 1, tokens, score, done | (chosen == EOS)

  _, tokens, score, _ = jax.lax.while_loop(
    lambda carry: (carry[0] < length) & ~carry[-1].all(),
    step,
    (
      0,
      jnp.zeros((batch, length), jnp.int32),
      jnp.zeros(batch),
      jnp.zeros(batch, bool),
    ),
  )
  return tokens, score

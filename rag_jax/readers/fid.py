"""The randomly initialised fusion-in-decoder reader with a copy mechanism.

Each generated token is a vocabulary token or is copied from a passage, under
one softmax; see `fusion`. With `reader.citations` the softmax has one more
class for each passage, which cites it: its logit is the log of the sum over the
tokens of the passage of exp(query . state), a pointer like that of copies
(pointer-generator: See et al., Get To The Point, 2017). A passage that is not
read has no class, so that no other document can be cited. The citations of a
sentence are written before it. Its tokens attend to the passages that it cites
alone, and copy from no other; see `citations.Sources`. Answers that are given
and returned have citations after their sentences.
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rag_jax import types
from rag_jax.nn import decoding, generate, question_passage, transformer
from rag_jax.ops import losses, masking
from rag_jax.readers import base, citations, fusion

BOS, EOS = 1, 2  # token ids of the start and end of an answer
CONTEXT = 3  # last tokens of an answer that are compared with a passage


class Memory(NamedTuple):
  """Encoded passages, each preceded by the question."""

  states: jax.Array  # float32[B, K, Q + P, W]
  # int32[B, K, Q + P], 0 = padding; with citations the tokens of the question
  # are negative, as they are never copied
  tokens: jax.Array


def make(config: base.ReaderConfig) -> base.Reader:
  """Makes the reader; see `readers.make`."""
  base.check(config, published=False, takes=('citations',))
  transformer.check_heads('reader', config.width, config)

  def init(
    rng: jax.Array, *, vocab_size: int, pretrained: Any = None
  ) -> base.Params:
    del pretrained
    query = jnp.ones((1, 1), jnp.int32)
    network = _network(config, vocab_size)
    found = network.init(
      rng, query, query[None], jnp.ones((1, 1)), query, method='write'
    )
    return found['params']

  def read(
    params: base.Params, query: jax.Array, passages: jax.Array
  ) -> Memory:
    network = _network(config, question_passage.vocab_size(params))
    return Memory(
      *transformer.apply(network, params, query, passages, method='encode')
    )

  return base.Reader(
    init=init,
    read=read,
    points=False,
    marginals=('fusion',),
    end_token=EOS,
    cites=config.citations,
    **fusion.functions(
      functools.partial(_force, config),
      functools.partial(_attend, config),
      functools.partial(_write, config),
      functools.partial(_sample, config),
      end=EOS,
      cites=config.citations,
    ),
  )


class _Network(question_passage.Encoder):
  """The encoder with a decoder that can copy, and cite."""

  def setup(self):
    super().setup()
    config = self.config
    self.decoder = transformer.Decoder(
      config.num_layers, config.num_heads, config.mlp_dim
    )
    self.copy_query = nn.Dense(config.width, use_bias=False)
    if config.citations:
      self.cite_query = nn.Dense(config.width, use_bias=False)
      self.citation = self.param(
        'citation', nn.initializers.normal(0.3), (config.width,)
      )
      self.continuation = nn.Dense(
        CONTEXT, bias_init=nn.initializers.constant(2.0)
      )

  def encode(self, query, passages):
    """See `Memory`."""
    states, tokens = super().encode(query, passages)
    if self.config.citations:
      asked = jnp.arange(tokens.shape[-1]) < query.shape[-1]
      tokens = jnp.where(asked, -tokens, tokens)
    return states, tokens

  def write(self, query, passages, weights, prefix):
    """Next-token logits float32[B, A, V + K] after each token of prefix [B, A].

    K = 0 without citations.
    """
    return self.decode(*self.encode(query, passages), weights, prefix)

  def decode(self, states, tokens, weights, prefix):
    """As `write`, given the results of `encode`."""
    source = _source(states, tokens, weights)
    return self.score(*self.attend(prefix, source), *source)

  def attend(self, prefix, source):
    """Decoder states, the last tokens and what may be read, after a prefix."""
    where = source.where
    if self.config.citations:
      where = _read(where, citations.sources(prefix, source.size))
    x = self.decoder(self.embed(prefix), source.states, where, bias=source.bias)
    return x, _recent(prefix), where

  def embed(self, prefix):
    """Embeds tokens [B, A]; all citations are the same to the decoder."""
    if not self.config.citations:
      return self.embedding(prefix)
    x = self.embedding(jnp.maximum(prefix, 0))
    return jnp.where((prefix < 0)[..., None], self.citation, x)

  def score(self, x, recent, read, *source):
    """Logits [B, A, V + K] of decoder states x [B, A, W] over a `_Source`.

    The last tokens of the answer at each position are int32[B, A, N], and what
    the next one may be copied from is bool[B, S] or, with citations, [B, A, S].
    """
    words, copies, cites = self.parts(x, recent, read, *source)
    logits = _add_copies(words, copies, source[1])
    # Padding is never generated.
    logits = logits.at[..., types.PAD].set(masking.NEG_INF)
    return jnp.concatenate([logits, cites], axis=-1)

  def parts(self, x, recent, read, memory, tokens, where, bias, count):
    """Logits of tokens [B, A, V], copies [B, A, S] and citations [B, A, K]."""
    scale = self.config.width**-0.5
    words = self.embedding.attend(x * scale)

    def point(query):
      scores = jnp.einsum('baw,bsw->bas', query(x), memory) * scale
      return jnp.where(where[:, None], scores + bias, masking.NEG_INF)

    copies = point(self.copy_query)
    if not self.config.citations:
      return words, copies, jnp.zeros((*x.shape[:2], 0))
    same = _continues(recent, tokens.reshape(tokens.shape[0], count, -1))
    copies += jnp.einsum('basn,ban->bas', same, self.continuation(x))
    copies = jnp.where(read & (tokens[:, None] > 0), copies, masking.NEG_INF)
    cites = point(self.cite_query).reshape(*x.shape[:2], count, -1)
    return words, copies, jax.nn.logsumexp(cites, axis=-1)

  def force(self, states, tokens, weights, answer):
    """Log-probabilities float32[B, A] of an answer with citations.

    They are those of `decode`, without its array of [B, A, V] with copies, in
    the order in which the tokens are written.
    """
    source = _source(states, tokens, weights)
    answer = citations.before_sentences(answer)
    state = self.attend(_shift(answer), source)
    words, copies, cites = self.parts(*state, *source)
    words = words.at[..., types.PAD].set(masking.NEG_INF)
    found = citations.classes(answer, self.vocab_size, weights > 0)
    token = jnp.minimum(found, self.vocab_size - 1)
    same = source.tokens[:, None] == token[..., None]  # [B, A, S]
    copied = jnp.where(same, copies, masking.NEG_INF)
    written = jnp.take_along_axis(words, token[..., None], axis=-1)
    place = jnp.maximum(found - self.vocab_size, 0)
    cited = jnp.take_along_axis(cites, place[..., None], axis=-1)[..., 0]

    def total(*parts):
      return jax.nn.logsumexp(jnp.concatenate(parts, axis=-1), axis=-1)

    chosen = jnp.where(found < self.vocab_size, total(written, copied), cited)
    scores = chosen - total(words, copies, cites)
    return jnp.where(found != types.PAD, scores, 0.0)


def _network(config, vocab_size):
  return _Network(config, vocab_size, marks_absent=config.citations)


class _Source(NamedTuple):
  """The tokens of all passages in a row, S = K (Q + P)."""

  states: jax.Array  # float32[B, S, W]
  tokens: jax.Array  # int32[B, S]
  where: jax.Array  # bool[B, S], real tokens of passages of positive weight
  bias: jax.Array  # float32[B, 1, S], log weights
  size: int  # K


def _source(states, tokens, weights):
  batch, count = tokens.shape[:2]
  bias, support = losses.log_weights(weights)
  where = (tokens != types.PAD) & support[..., None]
  bias = jnp.broadcast_to(bias[..., None], where.shape).reshape(batch, 1, -1)
  return _Source(
    states=states.reshape(batch, -1, states.shape[-1]),
    tokens=tokens.reshape(batch, -1),
    where=where.reshape(batch, -1),
    bias=bias,
    size=count,
  )


def _read(where, sources):
  """Tokens bool[B, A, S] that are read after each token of a text."""
  passages = sources.passages()
  length = where.shape[1] // passages.shape[-1]
  return where[:, None] & jnp.repeat(passages, length, axis=-1)


def _recent(prefix):
  """The last N tokens up to each position of [B, A], latest first."""
  length = prefix.shape[1]
  padded = jnp.pad(prefix, ((0, 0), (CONTEXT - 1, 0)))
  parts = [padded[:, n : n + length] for n in reversed(range(CONTEXT))]
  return jnp.stack(parts, axis=-1)


def _continues(recent, tokens):
  """Whether the last 1 to N tokens precede a token, float32[B, A, S, N].

  Args:
    recent: int32[B, A, N], latest first.
    tokens: int32[B, K, S / K], of the passages.
  """
  batch, _, length = tokens.shape
  before = [
    jnp.pad(tokens, ((0, 0), (0, 0), (n, 0)))[..., :length]
    for n in range(1, CONTEXT + 1)
  ]
  before = jnp.stack(before, axis=-1).reshape(batch, 1, -1, CONTEXT)
  same = (before == recent[:, :, None]) & (before > types.PAD)
  return jnp.cumprod(same.astype(jnp.float32), axis=-1)


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
  network = _network(config, question_passage.vocab_size(params))
  if config.citations:
    return transformer.apply(
      network, params, *memory, weights, answer, method='force'
    )
  logits = transformer.apply(
    network, params, *memory, weights, _shift(answer), method='decode'
  )
  return fusion.log_probabilities(logits, answer)


def _attend(config, params, memory, weights, answer):
  """Cross-attention float32[B, A, S]; see `fusion.Force`."""
  network = _network(config, question_passage.vocab_size(params))
  if config.citations:
    answer = citations.before_sentences(answer)
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
  tokens, score = _generate(config, params, memory, weights, generate.greedy)
  return jnp.where(tokens == EOS, types.PAD, tokens), score


def _sample(config, params, memory, weights, rng, how):
  """Draws an answer; see `fusion.Sample`."""
  draw = functools.partial(generate.sample, rng, how=how)
  return _generate(config, params, memory, weights, draw)[0]


def _generate(config, params, memory, weights, write):
  """Tokens [B, A] with the end token, and log-probabilities [B].

  `write` is `generate.greedy` or `generate.sample`.
  """
  size = question_passage.vocab_size(params)
  network = _network(config, size)
  source = _source(*memory, weights)
  batch = memory.tokens.shape[0]
  read, cache = decoding.start(
    params['decoder'],
    source.states,
    source.where,
    source.bias,
    max_length=config.max_answer_tokens,
  )

  def step(cache, found):
    cache, recent, sources = cache
    token = citations.tokens(found, size)
    recent = jnp.concatenate([token[..., None], recent[..., :-1]], axis=-1)
    where = source.where[:, None]
    if config.citations:
      sources = citations.advance(sources, token)
      where = _read(source.where, sources)
    x = transformer.apply(network, params, token, method='embed')
    x, cache = decoding.step(params['decoder'], read, cache, x, where=where)
    logits = transformer.apply(
      network, params, x, recent, where, *source, method='score'
    )
    return logits, (cache, recent, sources)

  rule = None
  if config.citations:
    rule = citations.constraint(
      batch,
      size,
      source.size,
      end_token=EOS,
      max_sentences=config.max_sentences,
    )
  recent = jnp.zeros((batch, 1, CONTEXT), jnp.int32)
  start = citations.nothing_cited(batch, source.size)
  logits, cache = step((cache, recent, start), jnp.full((batch, 1), BOS))
  written = write(
    step,
    logits[:, 0],
    cache,
    end_token=EOS,
    max_length=config.max_answer_tokens,
    constraint=rule,
  )
  tokens = citations.tokens(written.tokens[:, 0], size)
  if config.citations:
    tokens = citations.after_sentences(tokens, EOS)
  return tokens, written.scores[:, 0]

"""The reader: the answer's likelihood on each document, and the answer.

Two kinds, by config. `extractive` reads question and passage together and
points at a span: log P(span) = log P(start) + log P(end), summed over every
place where the answer stands, which are found on the device by matching its
tokens, so that any candidate can be read. `fusion` encodes every passage with
the question and writes the answer token by token from all of them at once
(fusion-in-decoder); each passage's weight enters the cross-attention as a bias
of log w, so that the answer's loss reaches the ranker. What it writes is a word
of its vocabulary or a token copied from a passage, under one softmax.

With published weights (`weights`) the fusion reader is a T5, which copies no
tokens (see `t5_reader`), and the extractive reader a BERT that reads question
and passage as its two texts. It also says how relevant each passage is, from
the mean of the question's states beside it and from how sure it is of the best
span there: with `ranker.reads` this joins the scores of the ranker, which then
has read what it ranks. With `null_document` one more competes, whose relevance
is 0 and which says nothing: no answer is given where log P(none) - log
P(answer), the former 0 without a null document, is above `null_threshold`.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from rag_jax import types
from rag_jax.components import query_encoder, t5_reader
from rag_jax.nn import bert, transformer
from rag_jax.ops import losses

KINDS = ('extractive', 'fusion')
BOS, EOS = 1, 2  # token ids that frame what the fusion reader writes
IMPOSSIBLE = -1e9  # log-likelihood of an answer that a passage lacks
NEVER = 1e9  # a threshold that nothing reaches


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReaderConfig:
  """Sizes of the reader."""

  kind: str = 'extractive'  # one of KINDS
  width: int = 128
  num_layers: int = 2  # encoder, and decoder of the fusion reader
  num_heads: int = 4
  hidden: int = 256
  window: int = 5  # tokens that a token sees before attention, odd
  max_answer_tokens: int = 16  # longest answer that is pointed at or written
  weights: str = ''  # published ones: of a BERT, or of a T5 for fusion
  frozen_layers: int = 0  # of a BERT, from below, kept as they are
  remat: bool = False  # compute their states again for the gradient
  shared_softmax: bool = False  # True = spans of all passages compete
  span_relevance: float = 0.0  # of the best span's score, in the relevance
  null_document: bool = False  # one that says nothing, beside those read
  null_threshold: float = NEVER  # nats of no answer over the best: give none

  def __post_init__(self) -> None:
    """Raises a ValueError on a value out of range."""
    if self.window < 1 or self.window % 2 == 0:
      raise ValueError(
        f'reader.window must be odd and at least 1, got {self.window}. '
        'Set --config.reader.window.'
      )
    if self.kind not in KINDS:
      raise ValueError(
        f'reader.kind must be one of {", ".join(KINDS)}, got {self.kind!r}. '
        'Set --config.reader.kind.'
      )
    if self.span_relevance < 0:
      raise ValueError(
        f'reader.span_relevance must be at least 0, got {self.span_relevance}. '
        'Set --config.reader.span_relevance.'
      )
    if math.isnan(self.null_threshold):
      raise ValueError(
        'reader.null_threshold must be a number of nats, got nan. '
        'Set --config.reader.null_threshold.'
      )
    if self.frozen_layers and self.kind != 'extractive':
      raise ValueError(
        f"reader.frozen_layers needs reader.kind 'extractive', got "
        f'{self.kind!r}. Set --config.reader.frozen_layers=0.'
      )


@flax.struct.dataclass
class Pointers:
  """What the extractive reader says of each passage."""

  spans: jax.Array  # float32[B, K, P, 2], start and end, log-probabilities
  relevance: jax.Array  # float32[B, K], nats; 0 without published weights


@flax.struct.dataclass
class Spans:
  """The best span of each passage."""

  start: jax.Array  # int32[B, K], first token
  end: jax.Array  # int32[B, K], last token
  score: jax.Array  # float32[B, K], log-probability in its passage, nats


class _Network(nn.Module):
  """Both readers' parameters; the kind decides which are made."""

  config: ReaderConfig
  vocab_size: int

  def setup(self):
    config = self.config
    sizes = (config.num_layers, config.num_heads, config.hidden)
    self.embedding = nn.Embed(
      self.vocab_size,
      config.width,
      embedding_init=nn.initializers.normal(0.3),
    )
    self.window = transformer.Window(config.window)
    self.segment = nn.Embed(3, config.width)
    self.encoder = transformer.Encoder(*sizes)
    if config.kind == 'extractive':
      self.pointer = nn.Dense(2, use_bias=False)
    else:
      self.decoder = transformer.Decoder(*sizes)
      self.copy_query = nn.Dense(config.width, use_bias=False)

  def encode(self, query, passages):
    """[B, Q] and [B, K, P] to states [B, K, Q + P, W] and their tokens."""
    batch, count, length = passages.shape
    query = jnp.broadcast_to(query[:, None], (batch, count, query.shape[-1]))
    shared = (passages[..., None] == query[:, :, None]).any(-1)
    segments = jnp.concatenate(
      [jnp.zeros_like(query), jnp.where(shared, 2, 1)], axis=-1
    )
    tokens = jnp.concatenate([query, passages], axis=-1)
    where = tokens != types.PAD
    x = self.embedding(tokens) + self.segment(segments)
    x = self.window(jnp.where(where[..., None], x, 0))
    flat = self.encoder(
      x.reshape(batch * count, -1, x.shape[-1]),
      where.reshape(batch * count, -1),
    )
    return flat.reshape(x.shape), tokens

  def point(self, query, passages):
    """Logits of start and end, float32[B, K, P, 2]."""
    states, _ = self.encode(query, passages)
    return self.pointer(states[:, :, -passages.shape[-1] :])

  def write(self, query, passages, weights, prefix):
    """Next-token logits float32[B, A, V] after each token of prefix [B, A]."""
    return self.decode(*self.encode(query, passages), weights, prefix)

  def decode(self, states, tokens, weights, prefix):
    """As `write`, from what `encode` returned."""
    batch = tokens.shape[0]
    bias, support = losses.log_weights(weights)
    where = (tokens != types.PAD) & support[..., None]
    bias = jnp.broadcast_to(bias[..., None], where.shape).reshape(batch, 1, -1)
    memory = states.reshape(batch, -1, states.shape[-1])
    where, tokens = where.reshape(batch, -1), tokens.reshape(batch, -1)
    x = self.decoder(self.embedding(prefix), memory, where, bias=bias)
    scale = self.config.width**-0.5
    words = self.embedding.attend(x * scale)
    copies = jnp.einsum('baw,bsw->bas', self.copy_query(x), memory) * scale
    copies = jnp.where(where[:, None], copies + bias, IMPOSSIBLE)
    logits = _add_copies(words, copies, tokens)
    return logits.at[..., types.PAD].set(IMPOSSIBLE)  # padding is not written


def _add_copies(words, copies, tokens):
  """log(exp(words) + what is copied); [B, A, V], [B, A, S], int32[B, S]."""
  best = jnp.maximum(copies.max(-1), words.max(-1))[..., None]
  best = jax.lax.stop_gradient(best)
  rows = jnp.arange(tokens.shape[0])[:, None]
  total = jnp.exp(words - best)
  add = jax.vmap(  # over the tokens of the answer
    lambda total, share: total.at[rows, tokens].add(share), 1, 1
  )
  total = add(total, jnp.exp(copies - best))
  # A word that has underflowed must not turn into log 0.
  return best + jnp.log(jnp.maximum(total, 1e-30))


def init(
  rng: jax.Array,
  config: ReaderConfig,
  *,
  vocab_size: int,
  pretrained: dict[str, Any] | None = None,
) -> dict[str, Any]:
  """Makes parameters, a pytree of plain dicts.

  Args:
    rng: PRNG key.
    config: sizes.
    vocab_size: number of token ids.
    pretrained: published weights, where `config.weights` names some.
  """
  if config.weights and config.kind == 'fusion':
    return {'t5': pretrained}
  if config.weights:
    shape = (config.width, 2)
    return {
      'bert': pretrained,
      'pointer': 0.02 * jax.random.normal(rng, shape),
      'relevance': jnp.zeros(config.width),
    }
  network = _Network(config, vocab_size)
  query = jnp.ones((1, 1), jnp.int32)
  passages = jnp.ones((1, 1, 1), jnp.int32)
  if config.kind == 'extractive':
    return network.init(rng, query, passages, method='point')['params']
  weights = jnp.ones((1, 1))
  return network.init(rng, query, passages, weights, query, method='write')[
    'params'
  ]


def point(
  params: dict[str, Any],
  config: ReaderConfig,
  query: jax.Array,
  passages: jax.Array,
) -> Pointers:
  """Runs the extractive reader.

  Args:
    params: what `init` made.
    config: the same sizes.
    query: int32[B, Q], 0 = padding.
    passages: int32[B, K, P], 0 = padding.

  Returns:
    `Pointers`. Starts are log-probabilities over the tokens of a passage, or
    of all passages with `shared_softmax`; ends likewise.
  """
  if config.weights:
    logits, relevance = _read(params, config, query, passages)
  else:
    network = _Network(config, _vocab_size(params))
    logits = transformer.apply(network, params, query, passages, method='point')
    relevance = jnp.zeros(passages.shape[:2])
  where = (passages != types.PAD)[..., None]
  logits = jnp.where(where, logits.astype(jnp.float32), IMPOSSIBLE)
  axes = (1, 2) if config.shared_softmax else 2
  return Pointers(
    spans=jax.nn.log_softmax(logits, axis=axes), relevance=relevance
  )


def _read(
  params: dict[str, Any],
  config: ReaderConfig,
  query: jax.Array,
  passages: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Logits float32[B, K, P, 2] and relevance float32[B, K], by a BERT."""
  batch, count, length = passages.shape
  query = jnp.broadcast_to(query[:, None], (batch, count, query.shape[-1]))
  tokens = jnp.concatenate([query, passages], axis=-1)
  tokens = tokens.reshape(batch * count, -1)
  where = tokens != types.PAD
  second = jnp.arange(tokens.shape[-1]) >= query.shape[-1]
  states = bert.apply(
    params['bert'],
    query_encoder.bert_config(config),
    tokens,
    segments=jnp.broadcast_to(second.astype(jnp.int32), tokens.shape),
    # Padding stands between question and passage, but takes up no position.
    positions=jnp.maximum(jnp.cumsum(where, axis=1) - 1, 0),
    frozen_layers=config.frozen_layers,
  )
  logits = states[:, -length:] @ params['pointer']
  logits = logits.reshape(batch, count, length, 2)
  asked = (where & ~second)[..., None]
  mean = (states * asked).sum(1) / jnp.maximum(asked.sum(1), 1)
  relevance = (mean @ params['relevance']).reshape(batch, count)
  if config.span_relevance:
    real = jnp.where((passages != types.PAD)[..., None], logits, IMPOSSIBLE)
    best = best_spans(real, max_tokens=config.max_answer_tokens).score
    relevance += config.span_relevance * best
  return logits, relevance


def null_log_odds(relevance: jax.Array, where: jax.Array) -> jax.Array:
  """Log odds of the null document against all passages that were read.

  Args:
    relevance: float32[B, K], nats; that of the null document is 0.
    where: bool[B, K], passages that were read.

  Returns:
    float32[B], nats.

  Example:
    >>> relevance = jnp.array([[1.5, 9.0]])
    >>> null_log_odds(relevance, jnp.array([[True, False]])).tolist()
    [-1.5]

  Reference:
    Guu et al., REALM, 2020.
  """
  return -jax.nn.logsumexp(jnp.where(where, relevance, IMPOSSIBLE), axis=-1)


def find_answers(passages: jax.Array, answers: jax.Array) -> jax.Array:
  """Finds every place where an answer stands in a passage.

  Args:
    passages: int32[B, K, P], 0 = padding.
    answers: int32[B, M, A], 0 = padding; an all-zero answer is none.

  Returns:
    bool[B, K, M, P], True where the answer starts.

  Example:
    >>> passages = jnp.array([[[5, 6, 7, 6, 0]]])
    >>> find_answers(passages, jnp.array([[[6, 0], [6, 7]]]))[0, 0].astype(int)
    Array([[0, 1, 0, 1, 0],
           [0, 1, 0, 0, 0]], dtype=int32)
  """
  length, width = passages.shape[-1], answers.shape[-1]
  padded = jnp.pad(passages, ((0, 0), (0, 0), (0, width - 1)))
  real = answers != types.PAD
  match = jnp.broadcast_to(
    real[:, None, :, :1], (*passages.shape[:2], answers.shape[1], length)
  )
  for offset in range(width):
    window = padded[:, :, None, offset : offset + length]
    token = answers[:, None, :, offset, None]
    match &= (window == token) | ~real[:, None, :, offset, None]
  return match


def answer_log_likelihood(
  pointers: jax.Array, passages: jax.Array, answers: jax.Array
) -> jax.Array:
  """Log-probability of an answer in each passage, over all its places.

  Args:
    pointers: float32[B, K, P, 2], the spans from `point`.
    passages: int32[B, K, P].
    answers: int32[B, M, A].

  Returns:
    float32[B, K] in nats; -1e9 where no answer occurs.
  """
  starts = find_answers(passages, answers)
  lengths = (answers != types.PAD).sum(-1)  # [B, M]
  length = passages.shape[-1]
  ends = jnp.arange(length) + jnp.maximum(lengths - 1, 0)[..., None]
  ends = jnp.minimum(ends, length - 1)[:, None]  # [B, 1, M, P]
  ends = jnp.broadcast_to(ends, starts.shape)
  end_scores = jnp.take_along_axis(pointers[..., None, :, 1], ends, axis=-1)
  spans = jnp.where(starts, pointers[..., None, :, 0] + end_scores, IMPOSSIBLE)
  found = starts.any(axis=(-2, -1))
  total = jax.nn.logsumexp(spans, axis=(-2, -1))
  return jnp.where(found, total, IMPOSSIBLE)


def best_spans(pointers: jax.Array, *, max_tokens: int) -> Spans:
  """The most probable span of each passage.

  Args:
    pointers: float32[B, K, P, 2], the spans from `point`.
    max_tokens: longest span.

  Returns:
    `Spans`; start <= end < start + max_tokens.
  """
  start, end = pointers[..., 0], pointers[..., 1]
  length = start.shape[-1]
  padded = jnp.pad(
    end, ((0, 0), (0, 0), (0, max_tokens - 1)), constant_values=2 * IMPOSSIBLE
  )
  spans = jnp.stack(
    [start + padded[..., i : i + length] for i in range(max_tokens)], axis=-1
  )  # [B, K, P, max_tokens]
  flat = spans.reshape(*spans.shape[:2], -1)
  best = flat.argmax(axis=-1)
  first = best // max_tokens
  return Spans(
    start=first, end=first + best % max_tokens, score=flat.max(axis=-1)
  )


def end_token(config: ReaderConfig) -> int:
  """The token that ends what the fusion reader writes."""
  return t5_reader.END if config.weights else EOS


def write_log_likelihood(
  params: dict[str, Any],
  config: ReaderConfig,
  query: jax.Array,
  passages: jax.Array,
  weights: jax.Array,
  answer: jax.Array,
) -> jax.Array:
  """Teacher-forces an answer through the fusion reader.

  Args:
    params: what `init` made.
    config: the same sizes.
    query: int32[B, Q].
    passages: int32[B, K, P].
    weights: float32[B, K] from the ranker; a passage of weight 0 is not read.
    answer: int32[B, A], 0 = padding, ending with `end_token`.

  Returns:
    float32[B, A] log-probabilities in nats, 0 on padding.
  """
  if config.weights:
    return t5_reader.log_likelihood(
      params['t5'],
      query,
      passages,
      weights,
      answer,
      num_heads=config.num_heads,
      remat=config.remat,
    )
  prefix = jnp.pad(answer[:, :-1], ((0, 0), (1, 0)), constant_values=BOS)
  network = _Network(config, _vocab_size(params))
  logits = transformer.apply(
    network, params, query, passages, weights, prefix, method='write'
  )
  chosen = jnp.take_along_axis(logits, answer[..., None], axis=-1)[..., 0]
  scores = chosen - jax.nn.logsumexp(logits, axis=-1)
  return jnp.where(answer != types.PAD, scores, 0.0)


def write(
  params: dict[str, Any],
  config: ReaderConfig,
  query: jax.Array,
  passages: jax.Array,
  weights: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Writes an answer greedily with the fusion reader.

  Args:
    params: what `init` made.
    config: the same sizes; `max_answer_tokens` are written at most.
    query: int32[B, Q].
    passages: int32[B, K, P].
    weights: float32[B, K].

  Returns:
    int32[B, A] tokens, 0 after the end token, and float32[B], the
    log-probability of what was written, nats.
  """
  length = config.max_answer_tokens
  if config.weights:
    return t5_reader.write(
      params['t5'],
      query,
      passages,
      weights,
      num_heads=config.num_heads,
      max_tokens=length,
    )
  network = _Network(config, _vocab_size(params))
  memory = transformer.apply(network, params, query, passages, method='encode')

  def step(index, carry):
    tokens, score, done = carry
    prefix = jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=BOS)
    logits = transformer.apply(
      network, params, *memory, weights, prefix, method='decode'
    )
    log_probs = jax.nn.log_softmax(logits[:, index])
    chosen = log_probs.argmax(axis=-1)
    score = score + jnp.where(done, 0.0, log_probs.max(axis=-1))
    tokens = tokens.at[:, index].set(jnp.where(done, types.PAD, chosen))
    return tokens, score, done | (chosen == EOS)

  batch = query.shape[0]
  tokens, score, _ = jax.lax.fori_loop(
    0,
    length,
    step,
    (
      jnp.zeros((batch, length), jnp.int32),
      jnp.zeros(batch),
      jnp.zeros(batch, bool),
    ),
  )
  return jnp.where(tokens == EOS, types.PAD, tokens), score


def _vocab_size(params: dict[str, Any]) -> int:
  return params['embedding']['embedding'].shape[0]

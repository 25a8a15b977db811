"""The reader that selects sentences of the documents read, each cited.

It is for answers of several sentences on real text, which a small decoder that
is trained from scratch cannot write. With the logit z_s of a sentence s of a
passage of weight w,

    P(s is selected) = sigmoid(z_s + log w),

independently of the others, so that the answer loss reaches the ranker. An
answer is the sentences with P of `reader.threshold` or more, in the order of
the passages' weights and of the text, each with the citation of its passage.
The threshold with the largest expected F1 is half of that F1 (Lipton et al.,
2014), so that it is below 1/2 if F1 counts.

The state of a sentence is a gated mean of its token states, plus an embedding
of its place in the passage; a window and a transformer layer over the sentences
of the passage follow. Tokens are encoded with the question in pieces of at most
`PIECE` tokens, so that the cost is linear in the length of a passage.

The training target of a sentence is 1 if at least `SHARE` of its bigrams occur
in the first reference answer. Bigrams of the question, such as those of a
title, say nothing and do not count, and neither do those with the mark that
ends the sentence. A sentence of one word has a unigram. The target is hard, so
that P is the probability that most of the sentence is in the answer. Citations
of the reference are not needed.

References:
  Cheng and Lapata, Neural Summarization by Extracting Sentences and Words, 2016
  (sentence states from words, then sentences in context).
  Lipton et al., Optimal Thresholding of Classifiers to Maximize F1 Measure,
  2014.
  Nallapati et al., SummaRuNNer: A Recurrent Neural Network Based Sequence Model
  for Extractive Summarization of Documents, 2017 (Bernoulli selections, targets
  from the overlap with an abstractive reference).
"""

import functools
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import tokenizers as hf

from rag_jax import types
from rag_jax.data import sentence_marks
from rag_jax.nn import question_passage, transformer
from rag_jax.readers import base

PIECE = 128  # maximum tokens that attend to each other
TOKENS = 4  # least mean tokens of a sentence; further ones are the last one
PLACES = 32  # places in a passage with an embedding of their own
SHARE = 0.5  # share of the bigrams in the reference of a selected sentence
LEAST = 1e-4  # least weight of a passage in a likelihood, so that it is finite


class Memory(NamedTuple):
  """Passages, their sentences, and the logits of these."""

  logits: jax.Array  # float32[B, K, S], nats
  where: jax.Array  # bool[B, K, S], real sentences
  passages: jax.Array  # int32[B, K, P]
  sentence: jax.Array  # int32[B, K, P], of each token; S = padding
  # uint32[B, K, P], the bigram that begins at a token; 0 = does not count
  units: jax.Array


def make(config: base.ReaderConfig) -> base.Reader:
  """Makes the reader; see `readers.make`."""
  base.check(config, published=False, takes=('citations', 'threshold'))
  transformer.check_heads('reader', config.width, config)
  if not config.citations:
    raise ValueError(
      f'reader.kind {config.kind!r} cites each sentence, got '
      'reader.citations=False. Set --config.reader.citations=True.'
    )

  init, read = question_passage.functions(
    functools.partial(_Network, config), 'select'
  )
  return base.Reader(
    init=init,
    read=read,
    points=False,
    marginals=('fusion',),
    from_tokenizer=_marks,
    cites=True,
    log_likelihood=_log_likelihood,
    joint_log_likelihood=_joint_log_likelihood,
    answer=functools.partial(_answer, config),
    answer_each=functools.partial(_answer_each, config),
  )


def _marks(tokenizer: hf.Tokenizer) -> base.Params:
  """The tokens at which sentences end; they are not trained."""
  return {'marks': jnp.asarray(sentence_marks.of_tokenizer(tokenizer))}


class _Network(question_passage.Encoder):
  """The encoder, with states and logits of sentences."""

  def setup(self):
    super().setup()
    config = self.config
    zeros = nn.initializers.zeros
    self.marks = self.param('marks', zeros, (self.vocab_size, 4))
    self.gate = nn.Dense(1)
    self.place = nn.Embed(PLACES, config.width)
    self.neighbours = transformer.Window(config.window)
    self.context = transformer.Encoder(1, config.num_heads, config.mlp_dim)
    self.score = nn.Dense(1, bias_init=nn.initializers.constant(-1.0))

  def select(self, query, passages):
    """The `Memory` of questions [B, Q] and passages [B, K, P]."""
    length = passages.shape[-1]
    most = max(-(-length // TOKENS), 1)
    sentence, is_mark = sentence_marks.split(passages, self.marks, most=most)
    states = self.states(query, passages)
    pooled, where = self.pool(states, sentence, most)
    units = _units(passages, sentence, is_mark, self.vocab_size)
    asked = _bigrams(query, self.vocab_size)[:, None]
    asked = jnp.concatenate([asked, query[:, None].astype(jnp.uint32)], axis=-1)
    return Memory(
      logits=self.context_logits(pooled, where),
      where=where,
      passages=passages,
      sentence=sentence,
      units=jnp.where(_among(units, asked), 0, units),
    )

  def states(self, query, passages):
    """Token states [B, K, P, W]; see `PIECE`."""
    batch, count, length = passages.shape
    size = min(PIECE, length)
    pieces = -(-length // size)
    padded = jnp.pad(passages, ((0, 0), (0, 0), (0, pieces * size - length)))
    states, _ = self.encode(query, padded.reshape(batch, count * pieces, size))
    states = states[:, :, query.shape[-1] :]
    return states.reshape(batch, count, pieces * size, -1)[:, :, :length]

  def pool(self, states, sentence, most):
    """Gated means of the states of sentences [B, K, S, W], and real ones."""
    batch, count, length, width = states.shape
    gates = nn.sigmoid(self.gate(states))
    rows = jnp.arange(batch * count)[:, None] * (most + 1)
    owner = (rows + sentence.reshape(-1, length)).reshape(-1)
    parts = jnp.concatenate(
      [gates * states, gates, jnp.ones_like(gates)], axis=-1
    )
    total = jax.ops.segment_sum(
      parts.reshape(-1, width + 2), owner, batch * count * (most + 1)
    ).reshape(batch, count, most + 1, width + 2)[:, :, :most]
    where = total[..., -1] > 0
    means = total[..., :width] / jnp.maximum(total[..., width, None], 1e-6)
    return means, where

  def context_logits(self, pooled, where):
    """Logits float32[B, K, S] of sentences in the context of the others."""
    batch, count, most, width = pooled.shape
    places = jnp.minimum(jnp.arange(most), PLACES - 1)
    x = pooled + self.place(places)
    x = self.neighbours(jnp.where(where[..., None], x, 0.0))
    x = self.context(
      x.reshape(-1, most, width), where.reshape(-1, most), jnp.arange(most)
    )
    return self.score(x)[..., 0].reshape(batch, count, most)


def _bigrams(tokens, vocab_size):
  """The bigram at each token, uint32[..., P]; 0 = none.

  Above 65,536 tokens a few numbers stand for two bigrams.
  """
  first = jnp.maximum(tokens, 0).astype(jnp.uint32)
  second = jnp.pad(first, [(0, 0)] * (tokens.ndim - 1) + [(0, 1)])[..., 1:]
  both = first * jnp.uint32(vocab_size) + second
  return jnp.where((first > 0) & (second > 0), both, 0)


def _units(passages, sentence, is_mark, vocab_size):
  """Bigrams within sentences, or the only word of one, uint32[B, K, P]."""
  edge = [(0, 0), (0, 0)]
  word = (passages != types.PAD) & ~is_mark
  same = sentence[..., 1:] == sentence[..., :-1]
  ahead = jnp.pad(same & word[..., 1:], [*edge, (0, 1)])
  behind = jnp.pad(same & word[..., :-1], [*edge, (1, 0)])
  alone = jnp.where(behind | ahead, 0, passages).astype(jnp.uint32)
  units = jnp.where(ahead, _bigrams(passages, vocab_size), alone)
  return jnp.where(word, units, 0)


def _among(units, known):
  """Whether units [B, K, P] are among known ones [B, 1 or K, N]; not 0."""
  known = jnp.broadcast_to(known, (*units.shape[:2], known.shape[-1]))
  ordered = jnp.sort(known, axis=-1)

  def found(own, ordered):
    place = jnp.searchsorted(ordered, own)
    return ordered[jnp.minimum(place, ordered.size - 1)] == own

  return jax.vmap(jax.vmap(found))(units, ordered) & (units > 0)


def targets(memory: Memory, answer: jax.Array, vocab_size: int) -> jax.Array:
  """Whether each sentence is in the reference answer, bool[B, K, S].

  Args:
    memory: from `read`.
    answer: int32[B, A], 0 = padding, -n = a citation, which does not count.
    vocab_size: number of token ids.
  """
  most = memory.logits.shape[-1]
  words = jnp.maximum(answer, 0).astype(jnp.uint32)
  known = jnp.concatenate([_bigrams(answer, vocab_size), words], axis=-1)
  counts = memory.units > 0
  found = _among(memory.units, known[:, None])
  total = _count(counts, memory.sentence, most)
  inside = _count(found, memory.sentence, most)
  return (total > 0) & (inside >= SHARE * total)


def _count(tokens, sentence, most):
  """Number of the tokens bool[B, K, P] in each sentence, int32[B, K, S]."""

  def one(tokens, sentence):
    return jax.ops.segment_sum(tokens.astype(jnp.int32), sentence, most + 1)

  return jax.vmap(jax.vmap(one))(tokens, sentence)[..., :most]


def _scores(memory, bias, target):
  """Log P of a selection of each passage, float32[B, K]."""
  logits = memory.logits + bias[..., None]
  each = -jax.nn.softplus(jnp.where(target, -logits, logits))
  return jnp.where(memory.where, each, 0.0).sum(-1)


def _log_likelihood(params, memory, answers):
  """Log P of the sentences of the answer given each passage alone."""
  size = question_passage.vocab_size(params)
  target = targets(memory, answers[:, 0], size)
  return _scores(memory, jnp.zeros(target.shape[:2]), target)[..., None]


def _joint_log_likelihood(params, memory, weights, answers):
  """Log P of the sentences of the answer, float32[B, 1].

  A passage of weight below `LEAST` counts with that weight, so that a document
  that is left out lowers the likelihood of an answer with its sentences.
  """
  size = question_passage.vocab_size(params)
  target = targets(memory, answers[:, 0], size)
  bias = jnp.log(jnp.maximum(weights, LEAST))
  return _scores(memory, bias, target).sum(-1, keepdims=True)


def _answer(config, params, memory, weights, where):
  """The answer over all passages with weight."""
  del params, where
  memory, weights = jax.lax.stop_gradient((memory, weights))
  logits = memory.logits + jnp.log(jnp.maximum(weights, LEAST))[..., None]
  real = memory.where & (weights > 0)[..., None]
  write = functools.partial(_write, config)
  tokens, chosen = jax.vmap(write)(logits, real, weights, memory)
  each = -jax.nn.softplus(jnp.where(chosen, -logits, logits))
  score = jnp.where(real, each, 0.0).sum((1, 2))
  # The passage of the first sentence.
  first = jnp.where(chosen.any(-1), weights + 1, weights).argmax(1)
  odds = jnp.where(chosen, logits, 0.0).sum((1, 2))
  return base.written(first, tokens, score).replace(no_answer=-odds)


def _answer_each(config, params, memory):
  """The answer of each passage alone; its citation is -1."""
  batch, count, _ = memory.logits.shape
  alone = jax.tree.map(lambda x: x.reshape(-1, 1, *x.shape[2:]), memory)
  ones = jnp.ones((batch * count, 1))
  found = _answer(config, params, alone, ones, ones > 0)
  return found.tokens.reshape(batch, count, -1)


def _write(config, logits, real, weights, memory):
  """Tokens int32[A] of one answer, and the selected sentences bool[K, S]."""
  room, (count, most) = config.max_answer_tokens, logits.shape
  least = math.log(config.threshold) - math.log1p(-config.threshold)
  sizes = _count(memory.passages[None] > 0, memory.sentence[None], most)[0] + 1
  # The best sentences that fit, by P.
  fits = (real & (logits >= least) & (sizes <= room)).reshape(-1)
  order = jnp.argsort(jnp.where(fits, -logits.reshape(-1), math.inf))
  used = jnp.cumsum(jnp.where(fits, sizes.reshape(-1), 0)[order])
  taken = fits[order] & (used <= room)
  if config.max_sentences:
    taken &= jnp.arange(order.size) < config.max_sentences
  chosen = (
    jnp.zeros(order.size, bool).at[order].set(taken).reshape(logits.shape)
  )
  # In the order of weights and places: where each sentence begins.
  by_weight = jnp.argsort(-weights, stable=True)
  lengths = jnp.where(chosen, sizes, 0)[by_weight].reshape(-1)
  ends = jnp.cumsum(lengths).reshape(count, most)
  ends = jnp.zeros_like(ends).at[by_weight].set(ends)
  # Of each token, its place in the answer; `room` if it is not selected.
  padded = jnp.pad(chosen, ((0, 0), (0, 1)))
  is_in = jnp.take_along_axis(padded, memory.sentence, axis=1)
  owner = jnp.minimum(memory.sentence, most - 1)
  shift = ends - sizes - (jnp.cumsum(sizes - 1, axis=1) - sizes + 1)
  shift = jnp.take_along_axis(shift, owner, axis=1)
  numbers = jnp.arange(owner.shape[1])
  places = jnp.where(is_in, numbers + shift, room)
  cited = jnp.where(chosen, ends - 1, room)
  tokens = jnp.zeros(room, jnp.int32)
  tokens = tokens.at[places].set(memory.passages, mode='drop')
  marks = jnp.broadcast_to(-1 - jnp.arange(count)[:, None], cited.shape)
  return tokens.at[cited].set(marks, mode='drop'), chosen

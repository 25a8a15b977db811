"""Autoregressive text generation: greedy, sampled and by beam search, compiled.

The model is a function `step_fn(cache, tokens) -> (logits, cache)`. It reads
the last token of each beam, int32[B, K], and returns the logits of the next,
float32[B, K, V]. The cache is a pytree whose leaves start with [B, K]; it is
reordered with the beams. Bind state that all beams of a row share to the
function. Generation starts from the logits of the first token, float32[B, V],
and a cache with K = 1:

  logits, prompt, cache = llama.prefill(params, config, tokens, where, 50)
  step_fn = functools.partial(llama.step, params, config, prompt)
  generated = greedy(step_fn, logits, cache, end_token=2, max_length=50)

Scores are log-probabilities over the whole vocabulary; a `Constraint` masks
tokens without renormalisation.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rag_jax.ops import beam as beams
from rag_jax.ops import masking, sampling

StepFn = Callable[[Any, jax.Array], tuple[jax.Array, Any]]


class Written(NamedTuple):
  """Generated texts, best first. Greedy decoding has K = 1."""

  tokens: jax.Array  # int32[B, K, L], 0 = padding
  where: jax.Array  # bool[B, K, L], True = generated, including the end token
  scores: jax.Array  # float32[B, K], nats; -1e9 = no text


class Constraint(NamedTuple):
  """An automaton over the generated tokens that masks the next token."""

  state: Any  # pytree of [B, 1, ...], reordered with the beams
  mask: Callable[[Any], jax.Array]  # state -> bool[B, K, V]
  advance: Callable[[Any, jax.Array], Any]  # state, int32[B, K] -> state


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
  """How a token is drawn; see `sampling.nucleus`. The default is softmax."""

  temperature: float = 1.0  # logits are divided by it
  top_k: int = 0  # only the k most probable tokens; 0 = all
  top_p: float = 1.0  # only the fewest tokens of this total probability


def runs(
  tokens: jax.Array, where: jax.Array, *, end_token: int, vocab_size: int
) -> Constraint:
  """Constrains generation to spans that are copied verbatim from a passage.

  A text is a non-empty span of a passage's tokens, then the end token. The
  state holds the positions from which the next token may be copied.

  Args:
    tokens: int32[B, P, S], passages of each row.
    where: bool[B, P, S], True = may be copied; at least one per row.
    end_token: ends a text.
    vocab_size: V.

  Returns:
    A constraint for `greedy` and `beam`.

  Example:
    >>> passage = jnp.array([[[5, 6, 7, 5, 8]]])
    >>> spans = runs(passage, passage > 0, end_token=2, vocab_size=9)
    >>> state = spans.advance(spans.state, jnp.array([[5]]))
    >>> spans.mask(state)[0, 0].nonzero()[0].tolist()  # 6, 8, or the end
    [2, 6, 8]
  """
  rows = jnp.arange(tokens.shape[0])[:, None, None]

  def mask(state):
    live, started = state
    batch, count = started.shape
    allowed = jnp.zeros((batch, count, vocab_size), bool)
    flat = tokens.reshape(batch, 1, -1)
    columns = jnp.arange(count)[:, None]
    live = live.reshape(batch, count, -1)
    allowed = allowed.at[rows, columns, flat].max(live)
    return allowed.at[..., end_token].set(started)

  def advance(state, chosen):
    live, started = state
    read = live & (tokens[:, None] == chosen[..., None, None])
    after = jnp.pad(read[..., :-1], [(0, 0)] * 3 + [(1, 0)])
    return after & where[:, None], jnp.ones_like(started)

  started = jnp.zeros((tokens.shape[0], 1), bool)
  return Constraint((where[:, None], started), mask, advance)


def greedy(
  step_fn: StepFn,
  logits: jax.Array,
  cache: Any,
  *,
  end_token: int,
  max_length: int,
  constraint: Constraint | None = None,
) -> Written:
  """Greedy decoding: the most probable token at each step.

  Args:
    step_fn: the model, see the module's docstring.
    logits: float32[B, V], of the first token.
    cache: pytree of [B, 1, ...], with capacity for L - 1 steps.
    end_token: ends a text.
    max_length: L, maximum number of tokens.
    constraint: masks the next token; None allows all.

  Returns:
    One text per row; its score is its log-probability.

  Raises:
    ValueError: if `max_length` is below 1.

  Example:
    >>> table = jnp.log(jnp.array([[0.1, 0.7, 0.2], [0.1, 0.3, 0.6]]))
    >>> def step_fn(cache, tokens):  # after any token, the second row
    ...   return table[1][None, None], cache
    >>> generated = greedy(step_fn, table[:1], (), end_token=2, max_length=5)
    >>> generated.tokens.tolist(), jnp.exp(generated.scores).round(2).tolist()
    ([[[1, 2, 0, 0, 0]]], [[0.41999998688697815]])
  """
  return _write_one(
    step_fn,
    logits,
    cache,
    lambda i, log_probs: log_probs.argmax(-1),
    end_token=end_token,
    max_length=max_length,
    constraint=constraint,
  )


def sample(
  rng: jax.Array,
  step_fn: StepFn,
  logits: jax.Array,
  cache: Any,
  *,
  end_token: int,
  max_length: int,
  how: Sampling = Sampling(),
  constraint: Constraint | None = None,
) -> Written:
  """Draws each token at random given those before it.

  Args:
    rng: PRNG keys [B], one per row, so that a text does not depend on the other
      rows of its batch. Token i is drawn with `jax.random.fold_in(key, i)`.
    step_fn: as for `greedy`.
    logits: float32[B, V], of the first token.
    cache: as for `greedy`.
    end_token: ends a text.
    max_length: L, maximum number of tokens.
    how: temperature, top-k and nucleus.
    constraint: as for `greedy`.

  Returns:
    One text per row; its score is its log-probability under the model, before
    temperature and truncation.

  Raises:
    ValueError: as `greedy`, and as `sampling.nucleus`.

  Reference:
    Holtzman et al., The Curious Case of Neural Text Degeneration, 2020.
  """

  def draw(i, log_probs):
    keys = jax.vmap(jax.random.fold_in, (0, None))(rng, i)
    return sampling.nucleus(
      keys,
      log_probs[:, 0],
      temperature=how.temperature,
      top_k=how.top_k,
      top_p=how.top_p,
    )[:, None]

  return _write_one(
    step_fn,
    logits,
    cache,
    draw,
    end_token=end_token,
    max_length=max_length,
    constraint=constraint,
  )


def _write_one(
  step_fn, logits, cache, pick, *, end_token, max_length, constraint
):
  """One text per row; `pick` (i, log_probs [B, 1, V]) -> tokens [B, 1]."""
  _check(max_length)
  constraint = constraint or _FREE
  batch = logits.shape[0]

  def choose(i, logits, state, generated, live):
    log_probs = _score(logits, constraint, state)
    token = pick(i, log_probs)
    gain = jnp.take_along_axis(log_probs, token[..., None], axis=-1)[..., 0]
    gain = jnp.where(live, gain, 0)
    generated = Written(
      tokens=generated.tokens.at[..., i].set(jnp.where(live, token, 0)),
      where=generated.where.at[..., i].set(live),
      scores=generated.scores + gain,
    )
    state = constraint.advance(state, token)
    return token, state, generated, live & (token != end_token)

  def advance_all(carry):
    i, token, cache, state, generated, live = carry
    logits, cache = step_fn(cache, token)
    token, state, generated, live = choose(i, logits, state, generated, live)
    return i + 1, token, cache, state, generated, live

  generated = Written(
    tokens=jnp.zeros((batch, 1, max_length), jnp.int32),
    where=jnp.zeros((batch, 1, max_length), bool),
    scores=jnp.zeros((batch, 1)),
  )
  live = jnp.ones((batch, 1), bool)
  token, state, generated, live = choose(
    0, logits[:, None], constraint.state, generated, live
  )
  *_, generated, _ = jax.lax.while_loop(
    lambda carry: (carry[0] < max_length) & carry[-1].any(),
    advance_all,
    (1, token, cache, state, generated, live),
  )
  return generated


def beam(
  step_fn: StepFn,
  logits: jax.Array,
  cache: Any,
  *,
  beam_size: int,
  end_token: int,
  max_length: int,
  length_penalty: float = 0.0,
  constraint: Constraint | None = None,
) -> Written:
  """Beam search.

  Args:
    step_fn: as for `greedy`.
    logits: float32[B, V], of the first token.
    cache: pytree of [B, 1, ...], with capacity for L - 1 steps.
    beam_size: K, number of beams.
    end_token: ends a text.
    max_length: L, maximum number of tokens; longer texts are truncated.
    length_penalty: scores are divided by length ** length_penalty. 0 ranks by
      log-probability; 1, the default of Hugging Face, by its mean per token.
    constraint: masks the next token; None allows all.

  Returns:
    K texts per row, best first, with length-penalised scores.

  Raises:
    ValueError: if `max_length` or `beam_size` is below 1.

  Reference:
    Wu et al., Google's Neural Machine Translation System, 2016, for the length
    penalty, here without the constant added to the length.
  """
  _check(max_length)
  if beam_size < 1:
    raise ValueError(
      f'beam_size must be at least 1, got {beam_size}. Set beam_size=1 or more.'
    )
  constraint = constraint or _FREE
  batch = logits.shape[0]

  def advance(i, logits, cache, state, running, done):
    """Extends the unfinished beams by a token; finished ones go to `done`."""
    log_probs = _score(logits, constraint, state)
    scores, parents, chosen = _extensions(
      running.scores, log_probs, 2 * beam_size
    )
    extended = beams.reorder(running, parents)
    tokens = extended.tokens.at[..., i].set(chosen)
    where = extended.where.at[..., i].set(True)
    ends = (chosen == end_token) | (i + 1 == max_length)
    top = jnp.arange(2 * beam_size) < beam_size
    ended = jnp.where(
      ends & top, scores / (i + 1.0) ** length_penalty, masking.NEG_INF
    )
    ended = jnp.where(
      _can_improve(running, done, i, length_penalty), ended, masking.NEG_INF
    )
    ended = jnp.where(scores > masking.NEG_INF / 2, ended, masking.NEG_INF)
    done = _keep_best(done, Written(tokens, where, ended))
    scores, kept = jax.lax.top_k(
      jnp.where(ends, masking.NEG_INF, scores), beam_size
    )
    rows = Written(tokens, where, scores)
    running = beams.reorder(rows, kept)._replace(scores=scores)
    parents, chosen = beams.take(parents, kept), beams.take(chosen, kept)
    cache, state = beams.reorder((cache, state), parents)
    return chosen, cache, constraint.advance(state, chosen), running, done

  def advance_all(carry):
    i, token, cache, state, running, done = carry
    logits, cache = step_fn(cache, token)
    return i + 1, *advance(i, logits, cache, state, running, done)

  def unfinished(carry):
    i, _, _, _, running, done = carry
    return (i < max_length) & _can_improve(
      running, done, i, length_penalty
    ).any()

  none = functools.partial(_no_text, batch, max_length)
  first = advance(
    0,
    logits[:, None],
    cache,
    constraint.state,
    none(1, 0.0),
    none(beam_size, masking.NEG_INF),
  )
  generated = jax.lax.while_loop(unfinished, advance_all, (1, *first))[-1]
  return generated._replace(
    where=generated.where & (generated.scores > masking.NEG_INF / 2)[..., None]
  )


def _no_text(batch, max_length, count, score):
  """Empty texts with a score."""
  shape = (batch, count, max_length)
  return Written(
    jnp.zeros(shape, jnp.int32),
    jnp.zeros(shape, bool),
    jnp.full(shape[:2], score),
  )


_FREE = Constraint((), lambda state: jnp.array(True), lambda state, _: state)


def _check(max_length):
  if max_length < 1:
    raise ValueError(
      f'max_length must be at least 1, got {max_length}. Give the maximum '
      'number of tokens.'
    )


def _score(logits, constraint, state):
  """Log-probabilities float32[B, K, V]; `NEG_INF` where not allowed."""
  log_probs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
  return jnp.where(constraint.mask(state), log_probs, masking.NEG_INF)


def _extensions(scores, log_probs, count):
  """Scores, parent beams and tokens of the best extensions by one token."""
  totals = scores[..., None] + log_probs
  size = totals.shape[-1]
  flat = totals.reshape(len(totals), -1)
  short = max(count - flat.shape[1], 0)
  flat = jnp.pad(
    flat, ((0, 0), (0, short)), constant_values=2 * masking.NEG_INF
  )
  best, chosen = beams.largest(flat, count)
  chosen = jnp.minimum(chosen, totals.shape[1] * size - 1)
  return jnp.maximum(best, masking.NEG_INF), chosen // size, chosen % size


def _keep_best(done, more):
  """The best texts of two sets, as many as in the first."""
  both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], 1), done, more)
  _, kept = jax.lax.top_k(both.scores, done.scores.shape[1])
  return beams.reorder(both, kept)


def _can_improve(running, done, i, length_penalty):
  """Whether an unfinished beam of i tokens can still improve `done`; [B, 1]."""
  best = running.scores[:, :1] / jnp.maximum(i, 1.0) ** length_penalty
  return (best > masking.NEG_INF / 2) & (
    best > done.scores.min(1, keepdims=True)
  )

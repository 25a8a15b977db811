"""Writing token by token with any model, compiled: greedily or with beams.

The model comes in as a function, `step_fn(cache, tokens) -> (logits, cache)`:
it reads a token of each beam, int32[B, K], and scores the next, float32[B, K,
V]. A cache is a pytree whose leaves start with [B, K]; it is reordered with the
beams. What all beams of a row share belongs into the function. To begin there
are the logits of the first token, float32[B, V], and a cache with K = 1:

  logits, prompt, cache = llama.prefill(params, config, tokens, where, 50)
  step_fn = functools.partial(llama.step, params, config, prompt)
  found = greedy(step_fn, logits, cache, end_token=2, max_length=50)

Scores are log-probabilities over the whole vocabulary, also where a
`Constraint` leaves few tokens to choose from.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rag_jax.ops import beam as beams
from rag_jax.ops import masking

StepFn = Callable[[Any, jax.Array], tuple[jax.Array, Any]]


class Written(NamedTuple):
  """Texts, best first. K is 1 where they were written greedily."""

  tokens: jax.Array  # int32[B, K, L], 0 where nothing was written
  where: jax.Array  # bool[B, K, L], True = written, the end token included
  scores: jax.Array  # float32[B, K], nats; -1e9 where there is no text


class Constraint(NamedTuple):
  """Which tokens may come next, as a machine that reads what was written."""

  state: Any  # pytree of [B, 1, ...], reordered with the beams
  mask: Callable[[Any], jax.Array]  # state -> bool[B, K, V]
  advance: Callable[[Any, jax.Array], Any]  # state, int32[B, K] -> state


def runs(
  tokens: jax.Array, where: jax.Array, *, end_token: int, vocab_size: int
) -> Constraint:
  """Allows what stands word for word in a passage.

  Each token must continue a run of the passage's tokens; after the first, the
  end may come. Worked out on the device: the state is where the next token may
  be read from.

  Args:
    tokens: int32[B, P, S], passages of each row.
    where: bool[B, P, S], True = may be copied; at least one a row.
    end_token: what ends a text.
    vocab_size: V.

  Returns:
    A constraint for `greedy` and `beam`.

  Example:
    >>> passage = jnp.array([[[5, 6, 7, 5, 8]]])
    >>> own = runs(passage, passage > 0, end_token=2, vocab_size=9)
    >>> state = own.advance(own.state, jnp.array([[5]]))
    >>> own.mask(state)[0, 0].nonzero()[0].tolist()  # 6, 8, or the end
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
  """Writes the most probable token, again and again, until all have ended.

  Args:
    step_fn: the model, see the module's docstring.
    logits: float32[B, V], of the first token.
    cache: pytree of [B, 1, ...], with room for L - 1 steps.
    end_token: what ends a text.
    max_length: tokens at most, L.
    constraint: which tokens may come next; None allows all.

  Returns:
    One text a row; its score is its log-probability.

  Raises:
    ValueError: if `max_length` is below 1.

  Example:
    >>> table = jnp.log(jnp.array([[0.1, 0.7, 0.2], [0.1, 0.3, 0.6]]))
    >>> def step_fn(cache, tokens):  # after any token, the second row
    ...   return table[1][None, None], cache
    >>> found = greedy(step_fn, table[:1], (), end_token=2, max_length=5)
    >>> found.tokens.tolist(), jnp.exp(found.scores).round(2).tolist()
    ([[[1, 2, 0, 0, 0]]], [[0.41999998688697815]])
  """
  _check(max_length)
  constraint = constraint or _FREE
  batch = logits.shape[0]

  def choose(i, logits, state, found, live):
    log_probs = _score(logits, constraint, state)
    token = log_probs.argmax(-1)
    gain = jnp.where(live, log_probs.max(-1), 0)
    found = Written(
      tokens=found.tokens.at[..., i].set(jnp.where(live, token, 0)),
      where=found.where.at[..., i].set(live),
      scores=found.scores + gain,
    )
    state = constraint.advance(state, token)
    return token, state, found, live & (token != end_token)

  def go(carry):
    i, token, cache, state, found, live = carry
    logits, cache = step_fn(cache, token)
    token, state, found, live = choose(i, logits, state, found, live)
    return i + 1, token, cache, state, found, live

  found = Written(
    tokens=jnp.zeros((batch, 1, max_length), jnp.int32),
    where=jnp.zeros((batch, 1, max_length), bool),
    scores=jnp.zeros((batch, 1)),
  )
  live = jnp.ones((batch, 1), bool)
  token, state, found, live = choose(
    0, logits[:, None], constraint.state, found, live
  )
  *_, found, _ = jax.lax.while_loop(
    lambda carry: (carry[0] < max_length) & carry[-1].any(),
    go,
    (1, token, cache, state, found, live),
  )
  return found


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
  """Writes the most probable texts that a beam of prefixes finds.

  Args:
    step_fn: as for `greedy`.
    logits: float32[B, V], of the first token.
    cache: pytree of [B, 1, ...], with room for L - 1 steps.
    beam_size: K.
    end_token: what ends a text.
    max_length: tokens at most, L; what has not ended by then is cut.
    length_penalty: a score is divided by length ** length_penalty. 0 ranks by
      probability, 1, as Hugging Face does, by the mean of a token.
    constraint: which tokens may come next; None allows all.

  Returns:
    K texts a row, best first, with these scores.

  Raises:
    ValueError: if `max_length` or `beam_size` is below 1.

  Reference:
    Wu et al., Google's Neural Machine Translation System, 2016, for the
    penalty, here with nothing added to the length.
  """
  _check(max_length)
  if beam_size < 1:
    raise ValueError(f'beam_size must be at least 1, got {beam_size}. Keep 1.')
  constraint = constraint or _FREE
  batch = logits.shape[0]

  def advance(i, logits, cache, state, running, done):
    """Adds a token to the running beams; those that end join the done."""
    log_probs = _score(logits, constraint, state)
    scores, parents, chosen = _best(running.scores, log_probs, 2 * beam_size)
    grown = beams.reorder(running, parents)
    tokens = grown.tokens.at[..., i].set(chosen)
    where = grown.where.at[..., i].set(True)
    ends = (chosen == end_token) | (i + 1 == max_length)
    top = jnp.arange(2 * beam_size) < beam_size
    ended = jnp.where(
      ends & top, scores / (i + 1.0) ** length_penalty, masking.NEG_INF
    )
    ended = jnp.where(
      _hopeful(running, done, i, length_penalty), ended, masking.NEG_INF
    )
    ended = jnp.where(scores > masking.NEG_INF / 2, ended, masking.NEG_INF)
    done = _top(done, Written(tokens, where, ended))
    scores, kept = jax.lax.top_k(
      jnp.where(ends, masking.NEG_INF, scores), beam_size
    )
    rows = Written(tokens, where, scores)
    running = beams.reorder(rows, kept)._replace(scores=scores)
    parents, chosen = beams.take(parents, kept), beams.take(chosen, kept)
    cache, state = beams.reorder((cache, state), parents)
    return chosen, cache, constraint.advance(state, chosen), running, done

  def go(carry):
    i, token, cache, state, running, done = carry
    logits, cache = step_fn(cache, token)
    return i + 1, *advance(i, logits, cache, state, running, done)

  def unfinished(carry):
    i, _, _, _, running, done = carry
    return (i < max_length) & _hopeful(running, done, i, length_penalty).any()

  def none(count, score):
    shape = (batch, count, max_length)
    return Written(
      jnp.zeros(shape, jnp.int32),
      jnp.zeros(shape, bool),
      jnp.full(shape[:2], score),
    )

  first = advance(
    0,
    logits[:, None],
    cache,
    constraint.state,
    none(1, 0.0),
    none(beam_size, masking.NEG_INF),
  )
  found = jax.lax.while_loop(unfinished, go, (1, *first))[-1]
  return found._replace(
    where=found.where & (found.scores > masking.NEG_INF / 2)[..., None]
  )


_FREE = Constraint((), lambda state: jnp.array(True), lambda state, _: state)


def _check(max_length):
  if max_length < 1:
    raise ValueError(
      f'max_length must be at least 1, got {max_length}. Give the most tokens '
      'to write.'
    )


def _score(logits, constraint, state):
  """Log-probabilities float32[B, K, V]; `NEG_INF` where not allowed."""
  log_probs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
  return jnp.where(constraint.mask(state), log_probs, masking.NEG_INF)


def _best(scores, log_probs, count):
  """Scores, beams and tokens of the best texts that are a token longer."""
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


def _top(done, more):
  """The best of two sets of texts, as many as in the first."""
  both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], 1), done, more)
  _, kept = jax.lax.top_k(both.scores, done.scores.shape[1])
  return beams.reorder(both, kept)


def _hopeful(running, done, i, length_penalty):
  """Whether a running beam of i tokens can still enter; bool[B, 1]."""
  best = running.scores[:, :1] / jnp.maximum(i, 1.0) ** length_penalty
  return (best > masking.NEG_INF / 2) & (
    best > done.scores.min(1, keepdims=True)
  )

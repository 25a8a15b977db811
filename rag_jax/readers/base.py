"""What every reader is: its configuration, and functions of one shape.

A reader is a `Reader`, a NamedTuple of functions, as optax has its optimizers.
`readers.make` makes it of a `ReaderConfig`. Shapes: B questions, K passages of
each, P tokens of a passage, Q of a question, M answers, A tokens of an answer.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import tokenizers as hf

from rag_jax import types

PUBLISHED = ('bert', 't5', 'llama')  # names of parameters others have trained
NEVER = 1e9  # a threshold that nothing reaches

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReaderConfig:
  """Kind and sizes of the reader; `readers.make` checks what a kind needs."""

  kind: str = 'extractive'  # kind of reader
  width: int = 128  # width of token states
  # transformer layers of the encoder, and of the decoder of 'fid'
  num_layers: int = 2
  num_heads: int = 4  # attention heads
  mlp_dim: int = 256  # width inside a feed-forward layer
  # 'extractive', 'fid': width of the convolution before attention, odd
  window: int = 5
  max_answer_tokens: int = 16  # maximum tokens per answer
  # 'bert', 't5', 'causal': pretrained weights of a BERT, T5 or Llama
  weights: str = ''
  frozen_layers: int = 0  # 'bert': frozen lowest layers
  remat: bool = False  # recompute states in the backward pass, to save memory
  # normalise spans over all passages instead of over each passage
  shared_softmax: bool = False
  # 'bert': weight of the best span's score in the relevance
  span_relevance: float = 0.0
  reranks: bool = False  # 'bert': add the relevance to the ranker's scores
  # 'bert': a null document (REALM) competes with the passages
  null_document: bool = False
  # abstain if log-odds of no answer against the best one exceed this, nats
  abstention_threshold: float = NEVER
  marginal: str = ''  # marginal of answers; '' = the kind's first
  num_beams: int = 1  # 'causal': beams of the beam search; 1 = greedy
  copy: bool = False  # 'causal': generate only spans of the passages
  # 'causal': base of the rotary embeddings, as in the weights
  rope_base: float = 1e5
  epsilon: float = 1e-5  # 'causal': epsilon of RMSNorm, as in the weights
  end_token: int = 2  # 'causal': token that ends an answer

  def __post_init__(self) -> None:
    """Raises a ValueError on a value out of range."""
    if self.window < 1 or self.window % 2 == 0:
      raise ValueError(
        f'reader.window must be odd and at least 1, got {self.window}. '
        'Set --config.reader.window.'
      )
    for name in ('max_answer_tokens', 'num_beams'):
      if getattr(self, name) < 1:
        raise ValueError(
          f'reader.{name} must be at least 1, got {getattr(self, name)}. '
          f'Set --config.reader.{name}.'
        )
    if self.span_relevance < 0:
      raise ValueError(
        f'reader.span_relevance must be at least 0, got {self.span_relevance}. '
        'Set --config.reader.span_relevance.'
      )
    if math.isnan(self.abstention_threshold):
      raise ValueError(
        'reader.abstention_threshold must be a number of nats, got nan. '
        'Set --config.reader.abstention_threshold.'
      )


@flax.struct.dataclass
class Written:
  """The answer to each question."""

  place: jax.Array  # int32[B], which of the K passages it is from
  start: jax.Array  # int32[B], its first token there; -1 where it was written
  end: jax.Array  # int32[B], its last token there; -1 where it was written
  tokens: jax.Array  # int32[B, A], what was written; 0 where it was pointed at
  log_probability: jax.Array  # float32[B], of the answer, nats
  no_answer: jax.Array  # float32[B], log-odds of none over this one, nats


def written(place: jax.Array, tokens: jax.Array, score: jax.Array) -> Written:
  """An answer int32[B, A] that is no span; against it speaks its own score."""
  none = jnp.full(score.shape, -1)
  return Written(
    place=place,
    start=none,
    end=none,
    tokens=tokens,
    log_probability=score,
    no_answer=-score,
  )


class Published(NamedTuple):
  """What others have trained, on the host."""

  params: Params  # for `Reader.init`
  tokenizer: hf.Tokenizer | None = None  # where the reader has its own


class OwnText(NamedTuple):
  """Text for a reader whose tokens are not those of the search.

  All but `decode` return arrays of the host, 0 = padding.
  """

  # (tokenizer, documents, *, max_tokens) -> int32[N, P], how many were cut
  passages: Callable[..., tuple[np.ndarray, int]]
  # (tokenizer, texts, *, max_tokens) -> int32[n, Q]
  questions: Callable[..., np.ndarray]
  # (tokenizer, tuples of texts, *, max_answers, max_tokens) -> int32[n, M, A],
  # without the end token; an answer that is longer is zeros
  answers: Callable[..., np.ndarray]
  decode: Callable[[hf.Tokenizer, Sequence[int] | np.ndarray], str]
  end: Callable[[hf.Tokenizer], int]  # the token that ends an answer
  overhead: int = 64  # tokens that the prompt adds to a text, at most


class Reader(NamedTuple):
  """What a reader does; all but `init` and `load` may be compiled.

  `memory` is whatever `read` returns, a pytree that does not depend on the
  weights of passages. Likelihoods are in nats and can be differentiated.

  Attributes:
    init: (rng, *, vocab_size, pretrained=None) -> params, a nested dict;
      `pretrained` is what `load` found.
    read: (params, query int32[B, Q], passages int32[B, K, P]) -> memory.
    log_likelihood: (params, memory, answers int32[B, M, A]) -> float32[B, K,
      T], log P(answer | passage k alone) by token, 0 on padding. A reader that
      points has T = 1, sums over all answers and all their places, and gives
      `NEG_INF` where there is none. One that writes scores answers[:, 0]
      and the end token, T = A + 1.
    answer: (params, memory, weights float32[B, K], where bool[B, K]) ->
      `Written`, the best answer over all passages with weight; `where` are
      those that exist.
    answer_each: (params, memory) -> int32[B, K, A], the best answer after each
      passage alone, 0 = padding; no gradient.
    points: whether an answer is a span of a passage; else it is written.
    marginals: names of the sums over passages that the reader knows:
      'sequence', 'token' or 'fusion'.
    relevance: (memory) -> float32[B, K], how relevant the reader finds each
      passage, nats; or None.
    joint_log_likelihood: (params, memory, weights float32[B, K], answers) ->
      float32[B, T], log P(answer | all passages at once) by token; or None.
    attention: (params, memory, weights, answers) -> float32[B, K], the share
      of cross-attention that each passage gets while the answer is written,
      the mean over heads, layers and tokens; no gradient. It sums to 1, or to
      0 where nothing has weight. Or None.
    load: () -> `Published`, with sizes checked; None without weights.
    end_token: what ends a written answer; None for a reader that points, and
      where `own_text` tells.
    own_text: how text becomes tokens, where the reader has its own tokenizer.

  Reference:
    For `attention`: Izacard and Grave, Distilling Knowledge from Reader to
    Retriever for Question Answering, 2021.
  """

  init: Callable[..., Params]
  read: Callable[[Params, jax.Array, jax.Array], Any]
  log_likelihood: Callable[[Params, Any, jax.Array], jax.Array]
  answer: Callable[[Params, Any, jax.Array, jax.Array], Written]
  answer_each: Callable[[Params, Any], jax.Array]
  points: bool
  marginals: tuple[str, ...]
  relevance: Callable[[Any], jax.Array] | None = None
  joint_log_likelihood: (
    Callable[[Params, Any, jax.Array, jax.Array], jax.Array] | None
  ) = None
  attention: Callable[[Params, Any, jax.Array, jax.Array], jax.Array] | None = (
    None
  )
  load: Callable[[], Published] | None = None
  end_token: int | None = None
  own_text: OwnText | None = None


# Fields that do something for few kinds, and what they are otherwise.
_SPECIAL = {'frozen_layers': 0, 'num_beams': 1, 'copy': False}


def check(
  config: ReaderConfig, *, published: bool, takes: Sequence[str] = ()
) -> None:
  """Raises a ValueError on fields that a kind cannot do with, or without.

  Args:
    config: the reader's.
    published: whether the kind needs published weights; else it refuses them.
    takes: those of `frozen_layers`, `num_beams` and `copy` that it knows.
  """
  kind = f'reader.kind {config.kind!r}'
  if published and not config.weights:
    raise ValueError(
      f"{kind} needs published weights, got reader.weights=''. "
      'Set --config.reader.weights.'
    )
  if config.weights and not published:
    raise ValueError(
      f'{kind} starts from nothing, got reader.weights={config.weights!r}. Set '
      "--config.reader.kind=bert or t5, or --config.reader.weights=''."
    )
  for name, value in _SPECIAL.items():
    if name not in takes and getattr(config, name) != value:
      raise ValueError(
        f'reader.{name} does nothing for {kind}, got {getattr(config, name)}. '
        f'Set --config.reader.{name}={value}.'
      )


def check_sizes(
  part: str,
  ours: Any,
  sizes: Any,
  names: Sequence[str] = ('width', 'num_layers', 'num_heads', 'mlp_dim'),
) -> None:
  """Raises a ValueError if a size is not that of the published weights.

  Args:
    part: of the experiment, for the message.
    ours: its configuration.
    sizes: those of the weights.
    names: fields of both.
  """
  for name in names:
    wanted = getattr(sizes, name)
    # A file may hold a number in less precision than ours.
    if not math.isclose(getattr(ours, name), wanted, rel_tol=1e-6):
      raise ValueError(
        f'{part}.{name} must be {wanted} as in the weights '
        f'{ours.weights!r}, got {getattr(ours, name)}. '
        f'Set --config.{part}.{name}={wanted}.'
      )


def with_end(tokens: jax.Array, end: int) -> jax.Array:
  """Appends the end token to int32[B, A] answers; [B, A + 1].

  Example:
    >>> with_end(jnp.array([[5, 6], [7, 0]]), 2).tolist()
    [[5, 6, 2], [7, 2, 0]]
  """
  tokens = jnp.pad(tokens, ((0, 0), (0, 1)))
  length = (tokens != types.PAD).sum(-1, keepdims=True)
  return jnp.where(jnp.arange(tokens.shape[1]) == length, end, tokens)

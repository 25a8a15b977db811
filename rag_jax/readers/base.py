"""The interface of all readers, and their configuration.

A reader is a `Reader`, a NamedTuple of functions like an optax optimizer.
`readers.make` builds it from a `ReaderConfig`. Shapes: B questions, K passages
per question, Q / P / A tokens of a question, a passage and an answer, M answers
per question.
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
from rag_jax.nn import encoders

# Parameter groups with pretrained weights; 'bert' is an encoder of any family.
PUBLISHED = ('bert', 'dense', 't5', 'llama')
NEVER = 1e9  # abstention threshold, nats: never abstain

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReaderConfig:
  """Kind and sizes of the reader; `readers.make` checks what the kind needs."""

  kind: str = 'extractive'  # kind of reader
  width: int = 128  # width of token states
  # transformer layers of the encoder, and of the decoder of 'fid'
  num_layers: int = 2
  num_heads: int = 4  # attention heads
  mlp_dim: int = 256  # width inside a feed-forward layer
  # 'extractive', 'fid', 'sentences': width of the convolution before attention,
  # odd
  window: int = 5
  max_answer_tokens: int = 16  # maximum tokens per answer
  # 'bert', 't5', 'causal': pretrained weights of a BERT, T5 or language model
  weights: str = ''
  frozen_layers: int = 0  # 'bert': frozen lowest layers
  remat: bool = False  # recompute states in the backward pass, to save memory
  # normalise spans over all passages instead of over each passage
  shared_softmax: bool = False
  # 'bert': weight of the best span's score in the relevance
  span_relevance: float = 0.0
  # 'extractive', 'bert': add the relevance to the ranker's scores
  reranks: bool = False
  # 'extractive', 'bert': a null document (REALM) competes with the passages
  null_document: bool = False
  # abstain if log-odds of no answer against the best one exceed this, nats
  abstention_threshold: float = NEVER
  marginal: str = ''  # marginal of answers; '' = the kind's first
  num_beams: int = 1  # 'causal': beams of the beam search; 1 = greedy
  copy: bool = False  # 'causal': generate only spans of the passages
  # 'fid', 'sentences': answers of several sentences, a citation after each
  citations: bool = False
  # with citations: maximum sentences of an answer; 0 = no limit
  max_sentences: int = 0
  # with citations: share of a sentence's words that its documents must hold, or
  # it is dropped; 0 keeps all
  support: float = 0.0
  # 'sentences': least probability of a selected sentence
  threshold: float = 0.5
  # 'causal': base of the rotary embeddings, as in the weights
  rope_base: float = 1e5
  epsilon: float = 1e-5  # 'causal': epsilon of RMSNorm, as in the weights
  end_token: int = 2  # 'causal': token that ends an answer
  # 'causal': form of the prompt, such as chatml or plain; '' = as the weights
  prompt: str = ''
  # 'causal': further options of the language model, read from the weights
  language_model: str = ''
  # 'bert': special tokens between question and passage, besides those that end
  # a question; () = as the weights
  between: tuple[int, ...] = ()
  # 'bert': special tokens after a passage; () = as the weights
  after: tuple[int, ...] = ()
  # 'bert': state that a published relevance head reads, 'cls' or 'mean'; '' =
  # as the weights, or no such head
  relevance_state: str = ''
  architecture: encoders.Architecture = encoders.Architecture()

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
    self._check_citations()
    if not 0 < self.threshold < 1:
      raise ValueError(
        'reader.threshold must be between 0 and 1, both excluded, got '
        f'{self.threshold}. Set --config.reader.threshold=0.5.'
      )
    if math.isnan(self.abstention_threshold):
      raise ValueError(
        'reader.abstention_threshold must be a number of nats, got nan. '
        'Set --config.reader.abstention_threshold.'
      )

  def _check_citations(self) -> None:
    for name, most in (('max_sentences', math.inf), ('support', 1.0)):
      value = getattr(self, name)
      if not 0 <= value <= most:
        limit = 'at least 0' if most > 1 else 'from 0 to 1'
        raise ValueError(
          f'reader.{name} must be {limit}, got {value}. '
          f'Set --config.reader.{name}=0.'
        )
      if value and not self.citations:
        raise ValueError(
          f'reader.{name} needs citations, got reader.citations=False. Set '
          f'--config.reader.citations=True or --config.reader.{name}=0.'
        )


@flax.struct.dataclass
class Written:
  """The answer to each question."""

  place: jax.Array  # int32[B], index of its passage among the K
  start: jax.Array  # int32[B], first token of its span; -1 if generated
  end: jax.Array  # int32[B], last token of its span; -1 if generated
  # int32[B, A], the generated tokens; 0 if it is a span; -n cites passage n
  tokens: jax.Array
  log_probability: jax.Array  # float32[B], nats
  no_answer: jax.Array  # float32[B], log-odds of no answer against it, nats
  # float32[B], log-probability of the best answer elsewhere; of a generated
  # answer its own
  second: jax.Array


def written(place: jax.Array, tokens: jax.Array, score: jax.Array) -> Written:
  """A generated answer int32[B, A]; `no_answer` is minus its score."""
  no_span = jnp.full(score.shape, -1)
  return Written(
    place=place,
    start=no_span,
    end=no_span,
    tokens=tokens,
    log_probability=score,
    no_answer=-score,
    second=score,
  )


class Published(NamedTuple):
  """Pretrained weights, on the host."""

  params: Params  # for `Reader.init`
  tokenizer: hf.Tokenizer | None = None  # if `text_inputs` are not plain


class TextInputs(NamedTuple):
  """How texts become tokens of a reader that can have its own tokenizer.

  `passages`, `questions` and `answers` return NumPy arrays, 0 = padding.
  """

  # (tokenizer, documents, *, max_tokens) -> int32[N, P], number of truncated
  passages: Callable[..., tuple[np.ndarray, int]]
  # (tokenizer, texts, *, max_tokens) -> int32[n, Q]
  questions: Callable[..., np.ndarray]
  # (tokenizer, tuples of texts, *, max_answers, max_tokens) -> int32[n, M, A],
  # without the end token; an answer that is too long is all padding
  answers: Callable[..., np.ndarray]
  decode: Callable[[hf.Tokenizer, Sequence[int] | np.ndarray], str]
  overhead: int = 0  # maximum number of tokens that a prompt adds to a text
  # whether tokens are as in the data; such a reader shares the tokens of the
  # data if its tokenizer is the same
  plain: bool = True


class Reader(NamedTuple):
  """The functions of a reader; all but `init` and `load` can be jitted.

  `memory` is the result of `read`, a pytree that does not depend on the weights
  of the passages. Likelihoods are in nats and differentiable.

  Attributes:
    init: (rng, *, vocab_size, pretrained=None) -> params, a nested dict;
      `pretrained` is the `params` of `load` or of `from_tokenizer`.
    read: (params, query int32[B, Q], passages int32[B, K, P]) -> memory.
    log_likelihood: (params, memory, answers int32[B, M, A]) -> float32[B, K,
      T], log P(answer | passage k) per token, 0 on padding. An extractive
      reader has T = 1, sums over all occurrences of all answers, and gives
      `NEG_INF` if there are none. A generative reader scores answers[:, 0] and
      the end token, T = A + 1; one that selects sentences has T = 1.
    answer: (params, memory, weights float32[B, K], where bool[B, K]) ->
      `Written`, the best answer over all passages with positive weight; `where`
      is True for passages that are real.
    answer_each: (params, memory) -> int32[B, K, A], the best answer given each
      passage alone, 0 = padding; no gradient.
    sample_each: (params, memory, rng [B, K], how) -> int32[B, K, A], an answer
      drawn at random given each passage alone, by one PRNG key each and a
      `generate.Sampling`; 0 = padding, and without its end token. An answer
      that does not end in A tokens is all padding. None if the reader does
      not write token by token.
    points: True if the reader is extractive (the answer is a span of a
      passage), False if it writes tokens.
    marginals: names of the supported marginals over passages: 'sequence',
      'token' or 'fusion'.
    relevance: (memory) -> float32[B, K], relevance of each passage, nats; or
      None.
    joint_log_likelihood: (params, memory, weights float32[B, K], answers) ->
      float32[B, T], log P(answer | all passages jointly) per token; or None.
    attention: (params, memory, weights, answers) -> float32[B, K], the share of
      decoder cross-attention on each passage, averaged over heads, layers and
      answer tokens; no gradient. It sums to 1, or to 0 if all weights are 0.
      Or None.
    load: () -> `Published`, with sizes checked; None if randomly initialised.
    from_tokenizer: (tokenizer) -> params that it determines, for `init` of a
      randomly initialised reader; None if there are none.
    published_fields: () -> name -> value of the fields of `ReaderConfig` that
      the published weights determine; None if there are none.
    end_token: the token that ends a generated answer; None if the reader
      generates none or `text_inputs` are not plain.
    text_inputs: tokenisation, if the reader can have its own tokenizer.
    cites: True if answers have citations: the token -n in an answer cites
      passage n, from 1 (see `readers.citations`).

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
  sample_each: Callable[..., jax.Array] | None = None
  load: Callable[[], Published] | None = None
  from_tokenizer: Callable[[hf.Tokenizer], Params] | None = None
  published_fields: Callable[[], dict[str, Any]] | None = None
  end_token: int | None = None
  text_inputs: TextInputs | None = None
  cites: bool = False


# Fields that only some kinds support, and their defaults.
_SPECIAL = {
  **{'frozen_layers': 0, 'num_beams': 1, 'copy': False, 'citations': False},
  'threshold': 0.5,
}


def check(
  config: ReaderConfig, *, published: bool, takes: Sequence[str] = ()
) -> None:
  """Raises a ValueError on fields that the kind requires or does not support.

  Args:
    config: the configuration of the reader.
    published: whether the kind requires published weights; else they are an
      error.
    takes: the supported ones of `frozen_layers`, `num_beams`, `copy`,
      `citations` and `threshold`.
  """
  kind = f'reader.kind {config.kind!r}'
  if published and not config.weights:
    raise ValueError(
      f"{kind} needs published weights, got reader.weights=''. "
      'Set --config.reader.weights.'
    )
  if config.weights and not published:
    raise ValueError(
      f'{kind} is randomly initialised, got reader.weights={config.weights!r}. '
      "Set --config.reader.kind=bert or t5, or --config.reader.weights=''."
    )
  for name, value in _SPECIAL.items():
    if name not in takes and getattr(config, name) != value:
      raise ValueError(
        f'reader.{name} has no effect for {kind}, got {getattr(config, name)}. '
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
    part: name of the component, for the message.
    ours: its configuration.
    sizes: the sizes of the weights.
    names: fields to compare.
  """
  # Tolerance, because a file may store a number in lower precision.
  check_fields(part, ours, {name: getattr(sizes, name) for name in names})


def check_fields(part: str, ours: Any, wanted: dict[str, Any]) -> None:
  """Raises a ValueError if a field is not as the published weights want it.

  Args:
    part: name of the component, for the message.
    ours: its configuration.
    wanted: name -> value.
  """
  for name, value in wanted.items():
    own = getattr(ours, name)
    number = isinstance(value, float) or isinstance(own, float)
    if not (math.isclose(own, value, rel_tol=1e-6) if number else own == value):
      raise other_value(part, name, ours, value, own)


def other_value(
  part: str, name: str, ours: Any, wanted: Any, own: Any
) -> ValueError:
  """The error that a field is not as the published weights want it."""
  return ValueError(
    f'{part}.{name} must be {wanted} as in the weights {ours.weights!r}, got '
    f'{own}. Set --config.{part}.{name}={wanted}.'
  )


def ended(tokens: jax.Array, end: int) -> jax.Array:
  """Texts int32[..., A] without their end token; all 0 if it is missing.

  Example:
    >>> ended(jnp.array([[5, 2, 0], [5, 6, 7]]), 2).tolist()
    [[5, 0, 0], [0, 0, 0]]
  """
  is_end = tokens == end
  return jnp.where(is_end | ~is_end.any(-1, keepdims=True), types.PAD, tokens)


def with_end(tokens: jax.Array, end: int) -> jax.Array:
  """Appends the end token to answers int32[B, A]: [B, A + 1].

  Example:
    >>> with_end(jnp.array([[5, 6], [7, 0]]), 2).tolist()
    [[5, 6, 2], [7, 2, 0]]
  """
  tokens = jnp.pad(tokens, ((0, 0), (0, 1)))
  length = (tokens != types.PAD).sum(-1, keepdims=True)
  return jnp.where(jnp.arange(tokens.shape[1]) == length, end, tokens)

"""The joint encoder of a question and passages, randomly initialised."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rag_jax import types
from rag_jax.nn import transformer

# Position of the first token of a passage, about the length of a question.
# The end of a longer question shares its positions with the passage, and is
# told from it by the segment.
PASSAGE_START = 18


class Encoder(nn.Module):
  """Encodes question + passage.

  Segment embeddings mark question tokens (0), passage tokens (1), passage
  tokens that occur in the question (2) and, with `marks_absent`, question
  tokens that do not occur in the passage (3).
  """

  config: Any  # width, window, num_layers, num_heads and mlp_dim
  vocab_size: int
  marks_absent: bool = False

  def setup(self):
    """Makes the layers; subclasses add their heads."""
    config = self.config
    self.embedding = nn.Embed(
      self.vocab_size,
      config.width,
      embedding_init=nn.initializers.normal(0.3),
    )
    self.window = transformer.Window(config.window)
    self.segment = nn.Embed(4 if self.marks_absent else 3, config.width)
    self.encoder = transformer.Encoder(
      config.num_layers, config.num_heads, config.mlp_dim
    )

  def encode(self, query, passages):
    """Encodes [B, Q] and [B, K, P]: states [B, K, Q + P, W], and tokens.

    The padding of a question changes nothing: no window reaches from it to the
    passage, and the first token of a passage always has the same position.
    """
    batch, count, length = passages.shape
    query = jnp.broadcast_to(query[:, None], (batch, count, query.shape[-1]))
    same = passages[..., None] == query[:, :, None]  # [B, K, P, Q]
    own = jnp.zeros_like(query)
    if self.marks_absent:
      own = jnp.where(same.any(2), 0, 3)
    parts = []
    for tokens, segments in (
      (query, own),
      (passages, jnp.where(same.any(-1), 2, 1)),
    ):
      x = self.embedding(tokens) + self.segment(segments)
      parts.append(
        self.window(jnp.where((tokens != types.PAD)[..., None], x, 0))
      )
    x = jnp.concatenate(parts, axis=2)
    tokens = jnp.concatenate([query, passages], axis=-1)
    where = tokens != types.PAD
    positions = jnp.concatenate(
      [jnp.arange(query.shape[-1]), PASSAGE_START + jnp.arange(length)]
    )
    flat = self.encoder(
      x.reshape(batch * count, -1, x.shape[-1]),
      where.reshape(batch * count, -1),
      positions,
    )
    return flat.reshape(x.shape), tokens


def functions(
  network: Callable[[int], Encoder], method: str
) -> tuple[Callable[..., dict[str, Any]], Callable[..., Any]]:
  """`init` and `read` of a reader that a method of its network computes.

  Args:
    network: vocabulary size -> the network.
    method: its method (question, passages) -> anything.

  Returns:
    `init` as in `readers.base.Reader`, and the function (params, question,
    passages) -> the result of the method.
  """

  def init(
    rng: jax.Array, *, vocab_size: int, pretrained: Any = None
  ) -> dict[str, Any]:
    query = jnp.ones((1, 1), jnp.int32)
    found = network(vocab_size).init(rng, query, query[None], method=method)
    return found['params'] | jax.tree.map(jnp.asarray, pretrained or {})

  def read(params: dict[str, Any], query: jax.Array, passages: jax.Array):
    own = network(vocab_size(params))
    return transformer.apply(own, params, query, passages, method=method)

  return init, read


def vocab_size(params: dict[str, Any]) -> int:
  """The vocabulary size of a reader with these parameters."""
  return params['embedding']['embedding'].shape[0]

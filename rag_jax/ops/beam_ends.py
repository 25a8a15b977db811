"""From where the beams of a search end to the documents that it has found."""

import jax
import jax.numpy as jnp

from rag_jax import types
from rag_jax.ops import masking, reads, trie_nodes


def candidates(
  trie: trie_nodes.Trie,
  beams: trie_nodes.Beams,
  scores: jax.Array,
  history: list,
) -> types.Candidates:
  """The document of each beam, in their order.

  Args:
    trie: the docids.
    beams: where they stand at the end.
    scores: float32[B, K] in nats, `NEG_INF` for a beam that holds no document.
    history: of each level with a choice, the beam int32[B, K] that each goes
      on from, and the code int32[B, K] by which it does.
  """
  where = ~(scores <= masking.NEG_INF / 2) & beams.ended
  leaves = jnp.where(where, beams.nodes, 0)
  return types.Candidates(
    documents=jnp.where(where, trie_nodes.documents(trie, leaves), 0),
    codes=jnp.where(where[..., None], _spell(trie, beams, history), 0),
    scores=jnp.where(where, scores, masking.NEG_INF),
    where=where,
  )


def pad(found: types.Candidates, size: int) -> types.Candidates:
  """Adds places that hold no document."""
  more = size - found.where.shape[1]

  def widen(x, value):
    widths = [(0, 0)] * x.ndim
    widths[1] = (0, more)
    return jnp.pad(x, widths, constant_values=value)

  return types.Candidates(
    documents=widen(found.documents, 0),
    codes=widen(found.codes, 0),
    scores=widen(found.scores, masking.NEG_INF),
    where=widen(found.where, False),
  )


def _spell(
  trie: trie_nodes.Trie, beams: trie_nodes.Beams, history: list
) -> jax.Array:
  """Docids of beams that have ended, int32[B, K, L]: what was chosen, the rest.

  A beam that has ended before the others has chosen the codes of its tail.
  """
  codes: list[jax.Array] = []
  places = jnp.broadcast_to(jnp.arange(beams.nodes.shape[1]), beams.nodes.shape)
  for parents, chosen in reversed(history):
    codes.append(reads.take(chosen, places))
    places = reads.take(parents, places)
  rest = trie_nodes.rest(trie, jnp.where(beams.ended, beams.nodes, 0))
  return jnp.concatenate([jnp.stack(codes[::-1], axis=-1), rest], axis=-1)

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


def merge(found: types.Candidates, size: int) -> types.Candidates:
  """Each document once, where several beams have found it.

  Args:
    found: beams, best first; some are of the same document.
    size: K, documents to return; at most as many as there are beams.

  Returns:
    The K best documents. A score is the log of the summed probabilities of the
    beams that have found the document, and the codes are those of the best one.

  Example:
    >>> scores = jnp.log(jnp.array([[0.4, 0.3, 0.2]]))
    >>> found = types.Candidates(
    ...   documents=jnp.array([[7, 5, 5]]), codes=jnp.arange(3)[None, :, None],
    ...   scores=scores, where=jnp.ones((1, 3), bool))
    >>> merged = merge(found, 2)
    >>> merged.documents.tolist(), merged.codes[..., 0].tolist()
    ([[5, 7]], [[1, 0]])
    >>> [f'{p:.1f}' for p in jnp.exp(merged.scores[0])]
    ['0.5', '0.4']
  """
  # Beams of a document side by side, best first; what is not real comes last.
  none = jnp.iinfo(found.documents.dtype).max
  owners = jnp.where(found.where, found.documents, none)
  order = jnp.argsort(owners, axis=1, stable=True)
  owners, scores, codes = reads.reorder(
    (owners, found.scores, found.codes), order
  )
  opens = jnp.ones(owners.shape, bool)
  opens = opens.at[:, 1:].set(owners[:, 1:] != owners[:, :-1])
  group = jnp.cumsum(opens, axis=1) - 1
  first = jax.lax.cummax(
    jnp.where(opens, jnp.arange(owners.shape[1]), 0), axis=1
  )
  best = reads.take(scores, first)
  share = jax.vmap(lambda x, at: jnp.zeros_like(x).at[at].add(x))(
    jnp.exp(scores - best), group
  )
  total = best + jnp.log(reads.take(share, group))
  where = opens & (owners != none)
  total, kept = jax.lax.top_k(jnp.where(where, total, masking.NEG_INF), size)
  owners, codes, where = reads.reorder((owners, codes, where), kept)
  return types.Candidates(
    documents=jnp.where(where, owners, 0),
    codes=jnp.where(where[..., None], codes, 0),
    scores=total,
    where=where,
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

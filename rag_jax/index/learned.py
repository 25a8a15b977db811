"""Codebooks trained for retrieval, with codes balanced by optimal transport."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rag_jax.ops import masking

NOISE = 0.5  # norm of the noise on synthetic queries / norm of the vector
TEMPERATURE = 0.05  # of the retrieval softmax over dot products
SOFTNESS = 0.1  # temperature of the assignment / mean squared distance


def fit(
  centres: np.ndarray,
  vectors: np.ndarray,
  queries: tuple[np.ndarray, np.ndarray] | None = None,
  *,
  steps: int = 1000,
  batch_size: int = 256,
  learning_rate: float = 1e-3,
  seed: int = 0,
) -> np.ndarray:
  """Trains residual codebooks for retrieval and for balanced use of the codes.

  The loss is the sum over the levels l of

    loss_l = - log softmax_j(q . sum_{m <= l} E_m[c_mj] / t)[j = gold]
             + cross-entropy of the code assignment to balanced targets

  with the documents j of the batch as in-batch negatives: every prefix of the
  gold document's docid must rank above those of the negatives. The forward pass
  uses hard codes; the gradient is that of a softmax over negative squared
  distances (straight-through). The targets are this softmax after Sinkhorn
  iterations, which give every code the same share of the batch.

  Args:
    centres: float32[levels, V, D], initial codebooks from residual k-means.
    vectors: float32[N, D], the documents.
    queries: query vectors float32[Q, D] and the rows int[Q] of their gold
      documents. None uses document vectors with added noise as queries.
    steps: of Adam.
    batch_size: queries per step, drawn with replacement.
    learning_rate: of Adam, in units of the vectors' standard deviation.
    seed: random seed.

  Returns:
    The codebooks, float32[levels, V, D]. Encode documents with
    `codebooks.encode_residual`.

  Raises:
    ValueError: if the queries do not fit the vectors.

  Reference:
    Sun et al., Learning to Tokenize for Generative Retrieval (GenRet), 2023;
    Zhang et al., Model-enhanced Vector Index (MEVI), 2023; Caron et al.,
    Unsupervised Learning by Contrasting Cluster Assignments, 2020.
  """
  noise = 0.0
  if queries is None:
    noise = NOISE
    queries = vectors, np.arange(len(vectors))
  query_vectors, rows = (np.asarray(part) for part in queries)
  if query_vectors.shape != (len(rows), vectors.shape[1]) or not len(rows):
    raise ValueError(
      f'queries must be float[Q, {vectors.shape[1]}] and int[Q], got '
      f'{query_vectors.shape} and {rows.shape}. Encode them with the encoder '
      'of the documents.'
    )
  if rows.min() < 0 or rows.max() >= len(vectors):
    raise ValueError(
      f'gold rows of queries must be from 0 to {len(vectors) - 1}, got '
      f'{rows[(rows < 0) | (rows >= len(vectors))][0]}. Give row numbers of '
      'the vectors.'
    )
  trained = _train(
    jnp.asarray(centres),
    jnp.asarray(vectors),
    jnp.asarray(query_vectors, jnp.float32),
    jnp.asarray(rows, jnp.int32),
    jax.random.key(seed),
    noise=noise,
    steps=steps,
    batch_size=batch_size,
    learning_rate=learning_rate * max(float(np.std(vectors)), 1e-6),
  )
  return np.asarray(trained)


def sinkhorn(logits: jax.Array, *, iterations: int = 5) -> jax.Array:
  """Soft assignment of rows to codes in which all codes are used equally.

  Args:
    logits: float32[B, V].
    iterations: normalisations of the columns, then the rows.

  Returns:
    float32[B, V]; each row sums to 1, each column to about B / V.

  Example:
    >>> sinkhorn(jnp.array([[1.0, 0.0], [1.0, 0.0]])).round(2).tolist()
    [[0.5, 0.5], [0.5, 0.5]]

  Reference:
    Cuturi, Sinkhorn Distances: Lightspeed Computation of Optimal Transport,
    2013.
  """
  share = jnp.log(logits.shape[0] / logits.shape[1])

  def step(_, x):
    x = x - jax.nn.logsumexp(x, axis=0, keepdims=True) + share
    return jax.nn.log_softmax(x, axis=1)

  return jnp.exp(jax.lax.fori_loop(0, iterations, step, logits))


def _loss(centres, documents, queries, rows):
  """Mean over the batch, summed over the levels."""
  # The gold document of two queries is no in-batch negative of either.
  contrasted = rows[:, None] != rows[None, :]
  contrasted |= jnp.eye(len(rows), dtype=bool)
  residual = documents
  prefix = jnp.zeros_like(documents)
  total = 0.0
  stop = jax.lax.stop_gradient
  for level in centres:
    square = jnp.sum(residual**2, axis=-1, keepdims=True)
    distance = square + jnp.sum(level**2, axis=-1) - 2 * residual @ level.T
    unit = stop(jnp.mean(jnp.min(distance, axis=-1))) * SOFTNESS + 1e-9
    logits = -distance / unit
    log_soft = jax.nn.log_softmax(logits)
    soft = jnp.exp(log_soft)
    hard = jax.nn.one_hot(jnp.argmin(distance, axis=-1), len(level))
    chosen = (soft + stop(hard - soft)) @ level
    prefix = prefix + chosen
    residual = stop(residual - hard @ level)
    scores = jnp.where(
      contrasted, queries @ prefix.T / TEMPERATURE, masking.NEG_INF
    )
    gold = jnp.diagonal(jax.nn.log_softmax(scores, axis=-1))
    targets = stop(sinkhorn(logits))
    total -= jnp.mean(gold) + jnp.mean(jnp.sum(targets * log_soft, axis=-1))
  return total


@functools.partial(
  jax.jit, static_argnames=('steps', 'batch_size', 'learning_rate', 'noise')
)
def _train(
  centres,
  vectors,
  query_vectors,
  rows,
  key,
  *,
  noise,
  steps,
  batch_size,
  learning_rate,
):
  optimiser = optax.adam(optax.cosine_decay_schedule(learning_rate, steps + 1))

  def step(state, i):
    centres, opt_state = state
    draw_key, noise_key = jax.random.split(jax.random.fold_in(key, i))
    drawn = jax.random.randint(draw_key, (batch_size,), 0, len(rows))
    queries = query_vectors[drawn]
    if noise:
      extra = jax.random.normal(noise_key, queries.shape)
      length = jnp.linalg.norm(queries, axis=-1, keepdims=True)
      queries += extra * length * noise / queries.shape[-1] ** 0.5
    grads = jax.grad(_loss)(centres, vectors[rows[drawn]], queries, rows[drawn])
    updates, opt_state = optimiser.update(grads, opt_state)
    return (optax.apply_updates(centres, updates), opt_state), None

  state = centres, optimiser.init(centres)
  return jax.lax.scan(step, state, jnp.arange(steps))[0][0]

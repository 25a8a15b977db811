"""RQ-VAE: residual quantisation of the latent of an autoencoder."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rag_jax.index import clustering

COMMITMENT = 0.25  # weight of the commitment loss
DECAY = 0.98  # of the moving average of code usage
REVIVE = 0.1  # codes with less usage are reset, in units of uniform usage


def fit(
  vectors: np.ndarray,
  *,
  num_levels: int,
  num_codes: int,
  hidden_dims: Sequence[int] = (512, 256, 128),
  latent: int = 32,
  steps: int = 1000,
  batch_size: int = 256,
  learning_rate: float = 1e-3,
  seed: int = 0,
) -> dict[str, np.ndarray]:
  """Trains encoder, codebooks and decoder jointly.

  loss = |x - x^|^2 + sum_l (|sg[r_l] - e_l|^2 + .25 |r_l - sg[e_l]|^2)

  where r_l is the residual of the latent before level l, e_l the nearest code
  vector, sg stop-gradient, and x^ the decoded sum of the code vectors, with a
  straight-through gradient to the latent. Codebooks are initialised by k-means,
  level by level. A code whose moving average of usage falls below `REVIVE` is
  reset to a random residual of the batch.

  Args:
    vectors: float32[N, D].
    num_levels: number of codebooks.
    num_codes: V, codes per codebook.
    hidden_dims: widths between D and the latent; the decoder mirrors them.
    latent: width of the latent and of the code vectors.
    steps: of Adam.
    batch_size: vectors per step, reset_rows with replacement.
    learning_rate: of Adam.
    seed: random seed.

  Returns:
    'centres' float32[num_levels, V, latent], the codebooks; 'encoder_i' and
    'decoder_i' float32[in + 1, out], one per layer, the bias in the last row.

  Reference:
    Rajput et al., Recommender Systems with Generative Retrieval (TIGER), 2023;
    Lee et al., Autoregressive Image Generation using Residual Quantization,
    2022.
  """
  rng = np.random.default_rng(seed)
  widths = [vectors.shape[1], *hidden_dims, latent]
  params: dict[str, Any] = {
    'encoder': _layers(rng, widths),
    'decoder': _layers(rng, widths[::-1]),
  }
  # Scale inputs to unit variance: the entries of unit vectors are small.
  scale = np.float32(1 / max(float(np.std(vectors)), 1e-6))
  params['encoder'][0][:-1] *= scale
  residual = np.array(mlp(params['encoder'], jnp.asarray(vectors)))
  centres = np.zeros((num_levels, num_codes, latent), np.float32)
  for level in range(num_levels):
    means, labels = clustering.kmeans(residual, num_codes, seed=seed + level)
    # With fewer vectors than codes, centroids repeat; unused ones are reset.
    centres[level] = means[np.arange(num_codes) % len(means)]
    residual -= means[labels]
  params['centres'] = centres
  params = _train(
    params,
    jnp.asarray(vectors),
    jax.random.key(seed),
    scale,
    steps=steps,
    batch_size=batch_size,
    learning_rate=learning_rate,
  )
  quantiser = {'centres': np.asarray(params['centres'])}
  for part in ('encoder', 'decoder'):
    for i, layer in enumerate(params[part]):
      quantiser[f'{part}_{i}'] = np.asarray(layer)
  return quantiser


def encode(quantiser: dict[str, np.ndarray], vectors: np.ndarray) -> np.ndarray:
  """Codes of vectors by a quantiser from `fit`, int32[M, num_levels]."""
  layers = _numbered(quantiser, 'encoder')
  codes = [
    np.asarray(_encode(layers, quantiser['centres'], vectors[i : i + 65_536]))
    for i in range(0, len(vectors), 65_536)
  ]
  empty = np.zeros((0, len(quantiser['centres'])), np.int32)
  return np.concatenate([empty, *codes])


def decode(quantiser: dict[str, np.ndarray], codes: np.ndarray) -> np.ndarray:
  """Reconstructs vectors from codes, float32[M, D], at unit variance."""
  centres = quantiser['centres']
  latent = sum(level[c] for level, c in zip(centres, codes.T, strict=True))
  return np.asarray(mlp(_numbered(quantiser, 'decoder'), jnp.asarray(latent)))


def mlp(layers: Sequence[jax.Array], x: jax.Array) -> jax.Array:
  """ReLU layers, the last one linear; float32[..., in] to [..., out]."""
  for i, layer in enumerate(layers):
    x = x @ layer[:-1] + layer[-1]
    if i + 1 < len(layers):
      x = jax.nn.relu(x)
  return x


def quantise(
  centres: jax.Array, latent: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Greedy residual codes.

  Args:
    centres: float32[levels, V, E].
    latent: float32[B, E].

  Returns:
    Codes int32[levels, B], and the residuals before each level
    float32[levels, B, E].
  """

  def step(residual, level):
    square = jnp.sum(level * level, axis=-1)
    code = jnp.argmin(square - 2 * residual @ level.T, axis=-1)
    return residual - level[code], (code.astype(jnp.int32), residual)

  return jax.lax.scan(step, latent, centres)[1]


@jax.jit
def _encode(layers, centres, vectors):
  return quantise(centres, mlp(layers, vectors))[0].T


def _numbered(quantiser, part):
  count = sum(name.startswith(part) for name in quantiser)
  return [quantiser[f'{part}_{i}'] for i in range(count)]


def _layers(rng, widths):
  layers = []
  for a, b in zip(widths[:-1], widths[1:], strict=True):
    layer = rng.normal(size=(a + 1, b)) * np.sqrt(2 / a)
    layer[-1] = 0
    layers.append(layer.astype(np.float32))
  return layers


def _loss(params, x, scale):
  latent = mlp(params['encoder'], x)
  codes, residuals = quantise(params['centres'], latent)
  code_vectors = jax.vmap(lambda level, code: level[code])(
    params['centres'], codes
  )
  # The value of the residuals, with the gradient of the latent.
  stop = jax.lax.stop_gradient
  through = latent + stop(residuals - latent)
  codebook_loss = jnp.sum((stop(residuals) - code_vectors) ** 2, axis=(0, 2))
  commitment = jnp.sum((through - stop(code_vectors)) ** 2, axis=(0, 2))
  decoded = mlp(
    params['decoder'], latent + stop(code_vectors.sum(axis=0) - latent)
  )
  reconstruction = jnp.sum((scale * x - decoded) ** 2, axis=-1)
  total = reconstruction + codebook_loss + COMMITMENT * commitment
  return jnp.mean(total), (codes, residuals)


@functools.partial(
  jax.jit, static_argnames=('steps', 'batch_size', 'learning_rate')
)
def _train(params, vectors, key, scale, *, steps, batch_size, learning_rate):
  optimiser = optax.adam(learning_rate)
  levels, size, _ = params['centres'].shape

  def step(state, i):
    params, opt_state, counts = state
    rows_key, revive_key = jax.random.split(jax.random.fold_in(key, i))
    rows = jax.random.randint(rows_key, (batch_size,), 0, len(vectors))
    grads, (codes, residuals) = jax.grad(_loss, has_aux=True)(
      params, vectors[rows], scale
    )
    updates, opt_state = optimiser.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    usage = jax.nn.one_hot(codes, size).sum(axis=1) * (size / batch_size)
    counts = DECAY * counts + (1 - DECAY) * usage
    reset_rows = jax.random.randint(revive_key, (levels, size), 0, batch_size)
    resets = jax.vmap(lambda residual, row: residual[row])(
      residuals, reset_rows
    )
    unused = counts < REVIVE
    centres = jnp.where(unused[..., None], resets, params['centres'])
    # A reset code starts at uniform usage, so it is not reset again at once.
    counts = jnp.where(unused, 1.0, counts)
    return (params | {'centres': centres}, opt_state, counts), None

  state = params, optimiser.init(params), jnp.ones((levels, size))
  return jax.lax.scan(step, state, jnp.arange(steps))[0][0]

import functools

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.nn import generate, t5, t5_generation

CONFIG = t5.T5Config(
  vocab_size=20,
  width=16,
  num_heads=2,
  head_size=8,
  mlp_dim=24,
  num_layers=1,
  num_decoder_layers=2,
)
LENGTH, END = 12, 1


@jax.jit
def generate_texts(params, tokens, where):
  memory = t5.encode(params, CONFIG, tokens, where)
  logits, shared, cache = t5_generation.start(
    params, CONFIG, memory, where, LENGTH
  )
  step_fn = functools.partial(t5_generation.step, params, CONFIG, shared)
  options = {'end_token': END, 'max_length': LENGTH}
  best = generate.greedy(step_fn, logits, cache, **options)
  several = generate.beam(step_fn, logits, cache, beam_size=3, **options)
  return memory, best, several


def test_scores_of_generated_texts_equal_those_of_one_pass():
  params = jax.jit(t5.init, static_argnums=1)(jax.random.key(2), CONFIG)
  tokens = jnp.asarray(np.random.default_rng(0).integers(2, 20, (2, 7)))
  where = jnp.arange(7) < jnp.array([[7], [4]])
  memory, best, several = generate_texts(params, tokens, where)
  decode = jax.jit(t5.decode, static_argnums=1)
  for found, k in [(best, 0), *((several, k) for k in range(3))]:
    text = found.tokens[:, k]
    read = jnp.pad(text[:, :-1], ((0, 0), (1, 0)))
    logits = decode(params, CONFIG, memory, where, read)
    scores = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(scores, text[..., None], -1)[..., 0]
    real = found.where[:, k]
    total = jnp.where(real, chosen, 0).sum(1)
    np.testing.assert_allclose(found.scores[:, k], total, atol=1e-4)
    if found is best:
      np.testing.assert_array_equal(scores.argmax(-1)[real], text[real])
  assert (several.scores[:, 0] >= best.scores[:, 0] - 1e-5).all()
  assert int(best.where.sum()) > 4  # the texts are not empty

"""Distillation losses against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from rag_jax.ops import distillation, losses

Z = np.array([[0.5, -1.0, 2.0, 0.1], [0.0, 0.3, -0.2, 1.0]])
L = np.array([[-1.0, -3.0, -0.5, -8.0], [-2.0, -0.1, -4.0, -1.0]])
WHERE = np.array([[True] * 4, [True, True, False, True]])


def kl(p, q):
  return sum(a * np.log(a / b) for a, b in zip(p, q, strict=True))


def rows(function):
  """The definition on the real slots of each row."""
  return [function(Z[i][WHERE[i]], L[i][WHERE[i]]) for i in range(2)]


def arrays():
  dirty = np.where(WHERE, Z, np.nan), np.where(WHERE, L, np.inf)
  return *map(jnp.asarray, dirty), jnp.asarray(WHERE)


FORMS = {
  'pdist': (
    lambda z, x, w: distillation.pdist(z, x, where=w),
    lambda z, x: kl(special.softmax(x), special.softmax(z)),
  ),
  'pdist, t 2': (
    lambda z, x, w: distillation.pdist(z, x, where=w, temperature=2.0),
    lambda z, x: kl(special.softmax(x / 2), special.softmax(z)),
  ),
  'pdist, mean': (
    lambda z, x, w: distillation.pdist(z, x, where=w, reduction='mean'),
    lambda z, x: kl(special.softmax(x), special.softmax(z)) / len(z),
  ),
  'loop': (
    lambda z, x, w: distillation.loop(z, x, where=w),
    lambda z, x: kl(special.softmax(-x), special.softmax(z)),
  ),
  'adist': (
    lambda z, x, w: distillation.adist(z, x, where=w),
    lambda z, x: kl(special.softmax(x), special.softmax(z)),
  ),
  'replug': (
    lambda z, x, w: distillation.replug(
      z, x, where=w, temperature=2.0, score_temperature=0.5
    ),
    lambda z, x: kl(special.softmax(z / 0.5), special.softmax(x / 2)),
  ),
  'emdr2': (
    lambda z, x, w: distillation.emdr2(z, x, where=w),
    lambda z, x: -np.log((special.softmax(z) * np.exp(x)).sum()),
  ),
  'emdr2_token': (
    lambda z, x, w: distillation.emdr2_token(
      z, jnp.stack([x, 2 * x], -1), where=w
    ),
    lambda z, x: (
      -sum(np.log((special.softmax(z) * np.exp(n * x)).sum()) for n in (1, 2))
    ),
  ),
}


@pytest.mark.parametrize('name', FORMS)
def test_the_definition(name):
  ours, theirs = FORMS[name]
  np.testing.assert_allclose(ours(*arrays()), rows(theirs), rtol=1e-5)


@pytest.mark.parametrize('name', FORMS)
def test_gradients_reach_the_scores_alone_and_are_finite(name):
  z, x, where = arrays()

  def loss(z, x):
    return FORMS[name][0](z, x, where).sum()

  on_scores, on_reader = jax.grad(loss, argnums=(0, 1))(z, x)
  assert np.isfinite(on_scores).all()
  assert (np.asarray(on_scores)[WHERE] != 0).all()
  assert (np.asarray(on_scores)[~WHERE] == 0).all()
  assert (np.asarray(on_reader) == 0).all()


@pytest.mark.parametrize('name', FORMS)
def test_nothing_real_loses_nothing(name):
  z, x, _ = arrays()
  nothing = jnp.zeros(z.shape, bool)
  loss, pull = jax.vjp(lambda z: FORMS[name][0](z, x, nothing), z)
  np.testing.assert_array_equal(loss, 0)
  np.testing.assert_array_equal(pull(jnp.ones(2))[0], 0)


def test_pdist_pushes_the_prior_to_the_posterior():
  z, x = jnp.asarray(Z), jnp.asarray(L)
  gradient = jax.grad(lambda z: distillation.pdist(z, x).sum())(z)
  np.testing.assert_allclose(
    gradient, jax.nn.softmax(z) - jax.nn.softmax(x), atol=1e-5
  )


def test_no_distance_where_reader_and_search_agree():
  z = jnp.asarray(Z)
  for name in ('pdist', 'adist', 'replug'):
    loss = getattr(distillation, name)(z, z + 3.0)
    np.testing.assert_allclose(loss, 0, atol=1e-6)


@pytest.mark.parametrize(
  'options, words',
  [
    ({'reduction': 'batchmean'}, "sum, mean, got 'batchmean'"),
    ({'temperature': 0.0}, 'positive, got 0.0'),
  ],
)
@pytest.mark.parametrize('name', ['pdist', 'loop', 'adist', 'replug'])
def test_bad_input_is_one_clear_error(name, options, words):
  with pytest.raises(ValueError, match=words):
    getattr(distillation, name)(jnp.zeros(2), jnp.zeros(2), **options)


class TestRanking:
  def test_list_mle_is_plackett_luce(self):
    chance, left = 1.0, [0, 1, 2, 3]
    for item in np.argsort(-L[0], kind='stable'):
      weights = np.exp(Z[0][left])
      chance *= np.exp(Z[0][item]) / weights.sum()
      left.remove(item)
    found = losses.list_mle(jnp.asarray(Z[0]), jnp.asarray(L[0]))
    assert float(found) == pytest.approx(-np.log(chance), rel=1e-5)

  def test_list_mle_passes_over_what_is_masked(self):
    z, x, where = arrays()
    kept = losses.list_mle(
      jnp.asarray(Z[1][WHERE[1]]), jnp.asarray(L[1][WHERE[1]])
    )
    value, slope = jax.value_and_grad(
      lambda z: losses.list_mle(z, x, where=where)[1]
    )(z)
    assert float(value) == pytest.approx(float(kept), rel=1e-5)
    assert np.isfinite(slope).all()
    assert float(slope[1, 2]) == 0

  def test_margin_counts_the_negatives_that_come_too_close(self):
    negative = jnp.array([[1.5, 0.0, 3.0], [9.0, 9.0, 0.5]])
    where = jnp.array([[True] * 3, [False, False, True]])
    found = losses.margin_ranking(
      jnp.array([2.0, 2.0]), negative, margin=1.0, where=where
    )
    assert found.tolist() == [0.5 + 2.0, 0.0]

  def test_prefix_margin_sums_over_prefixes(self):
    found = losses.prefix_margin(
      jnp.array([1.0, 2.0, 0.5]),
      jnp.array([0.5, 2.5, 0.0]),
      jnp.array([1.0, 1.0, 1.0]),
      where=jnp.array([True, False, True]),
    )
    # Prefix sums differ by .5, 0 and .5.
    assert float(found) == pytest.approx(0.25 + 0.25)

  def test_docid_nll_is_the_mean_over_gold_documents(self):
    found = losses.docid_nll(
      jnp.array([[-2.0, -4.0], [-1.0, jnp.nan], [jnp.nan, jnp.nan]]),
      where=jnp.array([[True, True], [True, False], [False, False]]),
    )
    assert found.tolist() == [3.0, 1.0, 0.0]

  @pytest.mark.parametrize(
    'operator, options, target',
    [
      ('entmax', {'alpha': 1.3}, [0.5, 0.5, 0.0, 0.0]),
      ('entmax', {'alpha': 2.0}, [0.5, 0.5, 0.0, 0.0]),
      ('capped_simplex', {'k': 2}, [1.0, 0.5, 0.5, 0.0]),
    ],
  )
  def test_fenchel_young_of_operators_with_options(
    self, operator, options, target
  ):
    from rag_jax import ops

    z, target = jnp.asarray(Z[0]), jnp.asarray(target)

    def loss(z, q):
      return losses.fenchel_young(z, q, operator=operator, **options)

    weights = getattr(ops, operator)(z, **options)
    np.testing.assert_allclose(
      jax.grad(loss)(z, target), weights - target, atol=1e-5
    )
    assert float(loss(z, weights)) == pytest.approx(0, abs=1e-5)
    assert float(loss(z, target)) > 0

  def test_fenchel_young_refuses_what_has_no_regulariser(self):
    with pytest.raises(ValueError, match="entmax, capped_simplex, got 'top_k'"):
      losses.fenchel_young(jnp.ones(2), jnp.ones(2), operator='top_k')


def test_marginals_against_transformers():
  """RAG's own loss on the same logits, in both of its forms."""
  torch = pytest.importorskip('torch', reason='PyTorch is not installed')
  pytest.importorskip('transformers', reason='transformers is not installed')
  from transformers import (
    BartConfig,
    DPRConfig,
    RagConfig,
    RagSequenceForGeneration,
    RagTokenForGeneration,
  )

  vocabulary, documents, length = 17, 3, 5
  config = RagConfig(
    question_encoder=DPRConfig(
      hidden_size=8,
      num_attention_heads=1,
      num_hidden_layers=1,
      intermediate_size=8,
      vocab_size=vocabulary,
    ).to_dict(),
    generator=BartConfig(
      d_model=8,
      encoder_layers=1,
      decoder_layers=1,
      encoder_attention_heads=1,
      decoder_attention_heads=1,
      encoder_ffn_dim=8,
      decoder_ffn_dim=8,
      vocab_size=vocabulary,
      pad_token_id=1,
    ).to_dict(),
    pad_token_id=1,
    bos_token_id=0,
    n_docs=documents,
    vocab_size=vocabulary,
  )
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(documents, length, vocabulary))
  scores = rng.normal(size=(1, documents))
  # Hugging Face shifts the target left by one and pads it.
  target = rng.integers(2, vocabulary, (1, length))
  shifted = np.concatenate([target[:, 1:], [[1]]], axis=1)
  log_probs = special.log_softmax(logits, axis=-1)
  chosen = np.take_along_axis(log_probs, shifted.T[None], 2)[..., 0]
  real = (shifted != 1)[0]
  weights = jnp.asarray(special.softmax(scores, axis=-1))
  arguments = (
    torch.tensor(logits),
    torch.tensor(scores),
    torch.tensor(target),
  )
  theirs = RagTokenForGeneration(config).get_nll(
    *arguments, reduce_loss=False, n_docs=documents
  )
  ours = losses.token_marginal(
    weights, jnp.asarray(chosen[None]), token_where=jnp.asarray(real)
  )
  np.testing.assert_allclose(
    ours, theirs.detach().numpy().ravel().sum(), rtol=1e-4
  )
  theirs = RagSequenceForGeneration(config).get_nll(
    *arguments, reduce_loss=False, n_docs=documents
  )
  ours = losses.sequence_marginal(
    weights, jnp.asarray((chosen * real).sum(-1)[None])
  )
  np.testing.assert_allclose(ours, theirs.detach().numpy().ravel(), rtol=1e-4)

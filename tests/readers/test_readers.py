"""`readers.make`: supported kinds and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax import readers
from rag_jax.readers import base

PUBLISHED = ('bert', 't5', 'causal')
CITES = 'sentences'  # the kind that always cites


def make(**options):
  return readers.make(base.ReaderConfig(**options))


def minimal(kind):
  """The minimal configuration of this kind."""
  own = {'weights': 'tiny'} if kind in PUBLISHED else {}
  return {'kind': kind} | ({'citations': True} if kind == CITES else own)


@pytest.mark.parametrize('kind', readers.KINDS)
def test_every_kind_can_be_made(kind):
  reader = make(**minimal(kind))
  assert reader is make(**minimal(kind))  # so it can be a static argument
  assert (reader.load is not None) == (kind in PUBLISHED)
  assert reader.points == (kind in ('extractive', 'bert'))
  assert (reader.relevance is not None) == (kind in ('bert', 'extractive'))
  fuses = kind in ('fid', 't5')
  assert (reader.joint_log_likelihood is not None) == (fuses or kind == CITES)
  assert reader.cites == (kind == CITES)
  assert (reader.sample_each is not None) == (fuses or kind == 'causal')
  assert (reader.attention is not None) == fuses
  assert (reader.end_token is not None) == fuses
  assert (reader.text_inputs is not None) == (kind in ('bert', 't5', 'causal'))
  for name in reader.marginals:
    assert make(**minimal(kind), marginal=name).marginals == reader.marginals


@pytest.mark.parametrize(
  'field, value',
  [
    ('kind', 'abstractive'),
    ('window', 4),
    ('window', 0),
    ('max_answer_tokens', 0),
    ('num_beams', 0),
    ('span_relevance', -1.0),
    ('abstention_threshold', float('nan')),
    ('threshold', 0.0),
    ('threshold', 1.0),
    ('threshold', float('nan')),
    ('marginal', 'token'),
    ('num_heads', 3),
  ],
)
def test_bad_values_name_the_field_and_the_remedy(field, value):
  with pytest.raises(ValueError, match=f'reader.{field} must') as error:
    make(**{field: value})
  assert repr(value) in str(error.value)
  assert f'--config.reader.{field}' in str(error.value)


@pytest.mark.parametrize('kind', PUBLISHED)
def test_missing_weights_raise(kind):
  message = f"reader.kind '{kind}' needs published weights, got reader.weights="
  with pytest.raises(ValueError, match=message) as error:
    make(kind=kind)
  assert '--config.reader.weights' in str(error.value)


@pytest.mark.parametrize('kind', ['extractive', 'fid', 'sentences'])
def test_unsupported_weights_raise(kind):
  with pytest.raises(
    ValueError, match="randomly initialised, got .*='tiny'"
  ) as error:
    make(kind=kind, weights='tiny')
  assert '--config.reader.kind=bert or t5' in str(error.value)


@pytest.mark.parametrize('kind', ['fid', 't5', 'causal', 'sentences'])
@pytest.mark.parametrize('field', ['reranks', 'null_document'])
def test_missing_relevance_raises(kind, field):
  with pytest.raises(
    ValueError, match=f'reader.{field} needs .* relevance .* got .*{kind}'
  ) as error:
    make(**minimal(kind), **{field: True})
  assert (
    f'--config.reader.{field}=False or --config.reader.kind=extractive'
    in str(error.value)
  )
  for other in ('bert', 'extractive'):
    assert make(**minimal(other), **{field: True}).relevance is not None


@pytest.mark.parametrize(
  'field, value, kind, others',
  [
    ('frozen_layers', 1, 'bert', ('extractive', 'fid', 't5', 'causal', CITES)),
    ('num_beams', 2, 'causal', ('extractive', 'bert', 'fid', 't5', CITES)),
    ('threshold', 0.3, CITES, ('extractive', 'bert', 'fid', 't5', 'causal')),
    ('copy', True, 'causal', ('extractive', 'bert', 'fid', 't5', CITES)),
  ],
)
def test_unsupported_fields_raise(field, value, kind, others):
  make(**minimal(kind), **{field: value})
  for other in others:
    with pytest.raises(
      ValueError, match=f'reader.{field} has no effect'
    ) as error:
      make(**minimal(other), **{field: value})
    assert f"'{other}', got {value}" in str(error.value)
    assert f'--config.reader.{field}=' in str(error.value)


def test_heads_must_divide_the_width_only_without_a_head_size():
  assert make(**minimal('causal'), num_heads=9).text_inputs
  assert make(**minimal('t5'), num_heads=6)
  with pytest.raises(ValueError, match='reader.num_heads must split width 128'):
    make(**minimal('bert'), num_heads=6)


@pytest.mark.parametrize('kind', ['extractive', 'fid', 'sentences'])
def test_padding_of_the_question_changes_nothing(kind, texts):
  small = {'width': 16, 'num_layers': 1, 'num_heads': 2, 'mlp_dim': 16}
  reader = make(**minimal(kind), max_answer_tokens=3, **small)
  params = jax.jit(reader.init, static_argnames='vocab_size')(
    jax.random.key(0), vocab_size=40
  )

  @jax.jit
  def read(query, passages):
    memory = reader.read(params, query, passages)
    likelihood = reader.log_likelihood(params, memory, passages[:, 0, None, :2])
    weights = jnp.full(passages.shape[:2], 1 / 3)
    written = reader.answer(params, memory, weights, weights > 0)
    return likelihood, written

  query, passages = texts  # one question fills the array, the other does not
  narrow = read(query, passages)
  wide = read(jnp.pad(query, ((0, 0), (0, 43))), passages)
  for ours, theirs in zip(
    jax.tree.leaves(narrow), jax.tree.leaves(wide), strict=True
  ):
    np.testing.assert_allclose(ours, theirs, atol=1e-5)

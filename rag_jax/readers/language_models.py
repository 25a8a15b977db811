"""What the weights of a language model say about the causal reader.

`published_fields` reads the fields of `ReaderConfig` that the weights
determine. They are stored in the configuration of a run, so that a trained run
needs no published files.
"""

import dataclasses
import functools
import json
from typing import Any

import tokenizers as hf

from rag_jax import console, types
from rag_jax.data import chat_forms, text_starts
from rag_jax.nn import llama, llama_weights
from rag_jax.readers import base

# Options of the model that are fields of `ReaderConfig`.
_FIELDS = ('num_heads', 'rope_base', 'epsilon')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """The contents of `reader.language_model`; the defaults are SmolLM2."""

  shift: int = 0  # added to tokens; 1 where token 0 is text
  never: tuple[int, ...] = (0,)  # special tokens that are never generated
  leading_space: bool = False  # whether a prompt begins with a space
  # Fields of `llama.LlamaConfig`, for the relatives of Llama.
  model: tuple[tuple[str, Any], ...] = ()


@functools.cache
def options(config: base.ReaderConfig) -> Options:
  """Reads `reader.language_model`.

  Raises:
    ValueError: if it is no such text.
  """
  if not config.language_model:
    return Options()
  try:
    values = json.loads(config.language_model)
    model = {
      name: tuple(value) if isinstance(value, list) else value
      for name, value in values.pop('model', {}).items()
    }
    never = tuple(values.pop('never'))
    return Options(**values, never=never, model=tuple(model.items()))
  except (ValueError, TypeError, KeyError, AttributeError) as error:
    raise ValueError(
      'reader.language_model must be the text that is read from the weights, '
      f'got {config.language_model[:60]!r}. Set '
      "--config.reader.language_model=''."
    ) from error


def model_options(config: base.ReaderConfig) -> dict[str, Any]:
  """The options of `llama.sizes`."""
  own = {name: getattr(config, name) for name in _FIELDS}
  return own | dict(options(config).model)


def published_fields(config: base.ReaderConfig) -> dict[str, Any]:
  """The fields that the weights determine; {} if they are already filled in.

  Prints a note if the chat template of the model is of no known form.

  Raises:
    ValueError: if the weights cannot be read, or `config.prompt` is unknown.
  """
  if config.prompt and config.language_model:
    return {}
  return _fields(config, llama_weights.describe(config.weights))


def check(config: base.ReaderConfig) -> None:
  """Raises a ValueError if a field differs from the weights."""
  found = llama_weights.describe(config.weights)
  base.check_sizes('reader', config, found.config, _FIELDS)
  wanted = _fields(config, found)
  if config.end_token != (end := wanted['end_token']):
    raise ValueError(
      f'reader.end_token must be {end}, the id of '
      f'{found.tokenizer.id_to_token(end)!r} in {config.weights!r}, got '
      f'{config.end_token}. Set --config.reader.end_token={end}.'
    )
  right = dataclasses.replace(config, **wanted)
  if options(config) != options(right):
    raise ValueError(
      f'reader.language_model must be as in {config.weights!r}, got '
      f'{config.language_model!r}. Set --config.reader.language_model='
      f"'{right.language_model}'."
    )


def _fields(config, found):
  """The fields that a `llama_weights.Description` determines."""
  if config.prompt not in ('', *chat_forms.NAMES):
    raise ValueError(
      f'reader.prompt must be one of {", ".join(chat_forms.NAMES)}, got '
      f'{config.prompt!r}. Set --config.reader.prompt, or leave it out for '
      'that of the weights.'
    )
  form = config.prompt or _form(config, found)
  model, end = found.config, _end_token(config, form, found)
  first = found.tokenizer.get_added_tokens_decoder().get(types.PAD)
  first_is_text = first is None or not first.special
  never = {*text_starts.start_tokens(found.tokenizer)} - {end}
  values = {
    'shift': int(first_is_text),
    'never': sorted(never if first_is_text else never | {types.PAD}),
    'leading_space': text_starts.without_leading_space(found.tokenizer)[1],
    'model': {
      name: getattr(model, name)
      for name in llama.OPTIONS
      if name not in _FIELDS
      and getattr(model, name) != getattr(llama.LlamaConfig, name)
    },
  }
  return {name: getattr(model, name) for name in _FIELDS} | {
    'end_token': end,
    'prompt': form,
    'language_model': json.dumps(values),
  }


def joined_tokenizer(tokenizer: hf.Tokenizer) -> hf.Tokenizer:
  """The tokenizer for parts of a prompt, which adds no space before each."""
  return text_starts.without_leading_space(tokenizer)[0]


def _form(config, found):
  """The form of the prompt, from the chat template."""
  if form := chat_forms.of(found.chat_template):
    return form
  if found.chat_template:
    console.note(
      f'the chat template of {config.weights!r} is none of '
      f'{", ".join(chat_forms.NAMES)}; the prompt is plain text. Set '
      '--config.reader.prompt to the form that is closest'
    )
    return chat_forms.PLAIN
  # Older folders have no chat template; the tokens of a turn name the form.
  end = chat_forms.end(chat_forms.DEFAULT)
  has_turns = found.tokenizer.token_to_id(end) is not None
  return chat_forms.DEFAULT if has_turns else chat_forms.PLAIN


def _end_token(config, form, found):
  """The id of the token that ends an answer."""
  name = chat_forms.end(form) or found.end
  token = found.tokenizer.token_to_id(name) if name else None
  if token is None:
    raise ValueError(
      f'reader.weights must have the token {name or "eos_token"!r} that ends '
      f'an answer in the form {form!r}, got none in {config.weights!r}. Set '
      '--config.reader.prompt to another form.'
    )
  return token

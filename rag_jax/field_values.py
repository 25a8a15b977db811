"""Conversion and checks of single fields of a configuration."""

import dataclasses
import difflib
import math
import re
import typing
from typing import Any

MOST = 2**31 - 1  # largest int32
# Magnitudes of numbers that float32 holds, with room for products.
SMALLEST, LARGEST = 1e-30, 1e30
# Fields whose part does not check them: least and largest value. An open
# interval starts above 0.
OPEN = SMALLEST
RANGES = {
  'seed': (0, MOST),
  'data.max_vector_tokens': (0, MOST),
  'data.bm25_k1': (0, LARGEST),
  'data.bm25_b': (0, 1),
  'docid.hidden_dims': (1, MOST),
  'query_encoder.frozen_layers': (0, MOST),
  'query_encoder.vector_width': (0, MOST),
  'id_decoder.scale': (OPEN, LARGEST),
  'ranker.saturation': (OPEN, LARGEST),
  'ranker.length_norm': (0, 1),
  'reader.frozen_layers': (0, MOST),
  'reader.rope_base': (OPEN, LARGEST),
  'reader.epsilon': (OPEN, LARGEST),
  'reader.end_token': (0, MOST),
  'reader.between': (0, MOST),
  'reader.after': (0, MOST),
  'pseudo_queries.batch_size': (0, MOST),
  'pseudo_queries.min_tokens': (1, MOST),
  'pseudo_queries.max_tokens': (1, MOST),
  'train.warmup_steps': (0, MOST),
  'train.weight_decay': (0, LARGEST),
  'train.clip_norm': (OPEN, LARGEST),
  'stages.STAGE.margin': (0, LARGEST),
}
RANGES |= {
  f'{part}.architecture.{name}': (least, most)
  for part in ('query_encoder', 'reader')
  for name, least, most in (
    ('pad_token', -1, MOST),
    *((n, 0, MOST) for n in ('max_positions', 'window', 'global_every')),
    *((n, 0, LARGEST) for n in ('epsilon', 'rope_base', 'local_rope_base')),
  )
}
_STAGE = re.compile(r'^stages\.[^.]+\.')


def cast(value: Any, field: dataclasses.Field, name: str) -> Any:
  """Converts a value to the type of a field, without loss.

  Args:
    value: the value.
    field: the dataclass field; its default and annotation give the type.
    name: dotted name, for errors.

  Returns:
    The value; an int for a float field becomes a float, a list a tuple.

  Raises:
    ValueError: if the value has another type, is not finite or is too large.
  """
  start = field.default
  if isinstance(start, tuple) and isinstance(value, (list, tuple)):
    kind = typing.get_args(field.type)[0]
    items = tuple(
      number(item, kind, f'{name}[{i}]', flag=name)
      for i, item in enumerate(value)
    )
    for item in items:
      _check_range(item, name)
    return items
  found = number(value, type(start), name, flag=name)
  _check_range(found, name)
  return found


def _check_range(value: Any, name: str) -> None:
  """Raises a ValueError if a value is outside the range of its field."""
  key = _STAGE.sub('stages.STAGE.', name)
  if key not in RANGES or isinstance(value, str):
    return
  least, most = RANGES[key]
  if least <= value <= most:
    return
  wanted = f'at least {least}' if least != OPEN else 'above 0'
  if most == 1:
    wanted = f'from {least} to {most}'
  raise ValueError(
    f'{name} must be {wanted}, got {value!r}. Set --config.{name}.'
  )


def number(value: Any, kind: type, name: str, *, flag: str) -> Any:
  """Converts to `kind`; numbers must be finite and integers fit into int32."""
  if kind is float and type(value) is int:
    value = float(value)
  if type(value) is not kind:
    raise ValueError(
      f'{name} must be {kind.__name__}, got {value!r}. Set --config.{flag}.'
    )
  if isinstance(value, float) and not math.isfinite(value):
    raise ValueError(
      f'{name} must be a finite number, got {value!r}. Set --config.{flag}.'
    )
  if (
    isinstance(value, float) and value and not SMALLEST <= abs(value) <= LARGEST
  ):
    raise ValueError(
      f'{name} must be 0 or from {SMALLEST:g} to {LARGEST:g} in magnitude, got '
      f'{value!r}. Set --config.{flag}.'
    )
  if isinstance(value, int) and abs(value) > MOST:
    raise ValueError(
      f'{name} must be at most {MOST}, got {value!r}. Set --config.{flag}.'
    )
  return value


def check_name(fields: dict[str, Any], name: str, prefix: str) -> None:
  """Raises a ValueError with the most similar field if a field is unknown."""
  if name in fields:
    return
  close = difflib.get_close_matches(name, fields, n=1)
  hint = f'There are: {", ".join(fields)}.'
  if close:
    hint = f"Did you mean '{prefix}{close[0]}'?"
  raise ValueError(f"config has no field '{prefix}{name}'. {hint}")


def check_group(value: Any, name: str, first: str) -> None:
  """Raises a ValueError if a group of fields is set to a single value."""
  if not isinstance(value, dict):
    raise ValueError(
      f"config field '{name}' is a group, got {value!r}. Set one of its "
      f"fields, such as '{name}.{first}'."
    )

"""Conversion and checks of single fields of a configuration."""

import dataclasses
import difflib
import math
import typing
from typing import Any

MOST = 2**31 - 1  # largest int32


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
    return tuple(
      number(item, kind, f'{name}[{i}]', flag=name)
      for i, item in enumerate(value)
    )
  return number(value, type(start), name, flag=name)


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

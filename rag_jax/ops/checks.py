"""What every operator and loss asks of its arguments, and how it runs.

An argument is checked once, before anything is computed, by its shape and
dtype alone, so that all checks hold under `jit` too. Lists and NumPy arrays are
arrays as well; float64 becomes float32 where x64 is off, as in JAX.
"""

import functools
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Compiled once a shape also where the caller does not compile. Inlined under
# the caller's own jit, so that it costs nothing there.
compiled = functools.partial(jax.jit, inline=True)


def floats(x: Any, name: str = 'scores') -> jax.Array:
  """`x` as a floating-point array, or a ValueError that says what it is."""
  x = _array(x, name)
  if not jnp.issubdtype(x.dtype, jnp.floating):
    hint = f'Convert it with jnp.asarray({name}, jnp.float32).'
    if _is_key(x):
      hint = 'Pass the key as rng.'
    raise ValueError(f'{name} must be floating point, got {x.dtype}. {hint}')
  return x


def numbers(x: Any, name: str) -> jax.Array:
  """`x` as an array of floats, integers or booleans."""
  x = _array(x, name)
  kinds = (jnp.floating, jnp.integer, jnp.bool_)
  if not any(jnp.issubdtype(x.dtype, kind) for kind in kinds):
    raise ValueError(f'{name} must be numbers, got {x.dtype}. Convert them.')
  return x


def integers(x: Any, name: str) -> jax.Array:
  """`x` as an array of integers."""
  x = _array(x, name)
  if not jnp.issubdtype(x.dtype, jnp.integer):
    raise ValueError(f'{name} must be integers, got {x.dtype}. Convert them.')
  return x


def mask(
  where: Any, shape: Sequence[int] | None = None, name: str = 'where'
) -> jax.Array | None:
  """A mask as a boolean array that broadcasts to `shape`; None stays None."""
  if where is None:
    return None
  where = _array(where, name)
  if where.dtype != jnp.bool_:
    raise ValueError(
      f'{name} must be bool, True = real, got {where.dtype}. '
      f'Compare with something, such as {name} > 0.'
    )
  if shape is not None and where.shape != tuple(shape):
    try:
      fits = jnp.broadcast_shapes(where.shape, tuple(shape)) == tuple(shape)
    except ValueError:
      fits = False
    if not fits:
      raise ValueError(
        f'{name} must broadcast to scores {tuple(shape)}, got {where.shape}. '
        'Give one truth value a score.'
      )
  return where


def allowed(given: Any, count: int, batch_size: Any = None) -> jax.Array:
  """An allow-list as a mask over `count` documents, or a ValueError.

  Args:
    given: bool[N] or bool[B, N], True = this document may be returned.
    count: N.
    batch_size: B; None = any.
  """
  found = mask(given, name='allowed')
  assert found is not None
  rows = found.shape[0] if batch_size is None else batch_size
  fits = found.shape[-1:] == (count,) and (
    found.ndim == 1 or (found.ndim == 2 and found.shape[0] in (1, rows))
  )
  if not fits:
    raise ValueError(
      f'allowed must be bool[{count}] or bool[{batch_size or "B"}, {count}], a '
      f'truth value a document, got {list(found.shape)}. '
      'Make it with jnp.zeros(N, bool).at[rows].set(True).'
    )
  return found


def strings(values: Any, name: str) -> list[str]:
  """A list of strings; a string is none, though Python can walk it."""
  if isinstance(values, str):
    raise ValueError(
      f'{name} must be a list of strings, got the string {values!r}. '
      f'Pass [{values!r}].'
    )
  if not isinstance(values, Iterable) or isinstance(values, Mapping):
    raise ValueError(
      f'{name} must be a list of strings, got {values!r}. Pass a list.'
    )
  values = list(values)
  for value in values:
    if not isinstance(value, str):
      raise ValueError(
        f'{name} must hold strings, got {value!r}. Pass str({value!r}).'
      )
  return values


def together(**arrays: Any) -> tuple[int, ...]:
  """The shape that arrays broadcast to, Nones left out; or a ValueError."""
  shapes = {n: x.shape for n, x in arrays.items() if x is not None}
  try:
    return jnp.broadcast_shapes(*shapes.values())
  except ValueError as error:
    listed = ', '.join(f'{name} {shape}' for name, shape in shapes.items())
    raise ValueError(
      f'shapes must go together, got {listed}. Give one number a document.'
    ) from error


def axis_of(axis: Any, ndim: int) -> int:
  """`axis` counted from the end, or a ValueError that says what there is."""
  axis = whole(axis, 'axis')
  if not -ndim <= axis < ndim:
    found = f'{ndim} axes' if ndim else 'no axis at all'
    raise ValueError(
      f'axis must be one of those of scores, which have {found}, got {axis}. '
      'Take -1 for the last.'
    )
  return axis % ndim - ndim


def whole(x: Any, name: str) -> int:
  """`x` as a Python integer, or a ValueError."""
  try:
    if isinstance(x, (bool, np.bool_)):
      raise TypeError
    return operator.index(x)
  except (TypeError, jax.errors.JAXTypeError) as error:
    raise ValueError(
      f'{name} must be an integer, a Python int known before compiling, got '
      f'{x!r}. Under jit, mark it in static_argnames.'
    ) from error


def number_of(x: Any, name: str, *, least: int) -> int:
  """`x` as an integer that is at least so large, or a ValueError."""
  x = whole(x, name)
  if x < least:
    raise ValueError(f'{name} must be at least {least}, got {x}. Ask for more.')
  return x


def k_of(k: Any, count: Any) -> int:
  """`k` as an integer that counts 1 to `count` slots, or a ValueError."""
  k = whole(k, 'k')
  # How many there are is not known where a program is exported for any size.
  if k < 1 or (isinstance(count, int) and k > count):
    raise ValueError(
      f'k must be between 1 and the number of scores ({count}), got {k}. '
      'Choose fewer, or give more scores.'
    )
  return k


def temperature(x: Any, name: str = 'temperature') -> Any:
  """A temperature, or a ValueError if it is a number and not positive."""
  if isinstance(x, (int, float, np.number)):
    if not 0 < x < float('inf'):
      raise ValueError(
        f'{name} must be positive, got {x}. '
        'Small is close to a hard choice, large close to an even one.'
      )
    return float(x)
  return floats(x, name)


def key(rng: Any) -> jax.Array:
  """A PRNG key, of the new or the old style, or a ValueError."""
  rng = _array(rng, 'rng')
  old = rng.dtype == jnp.uint32 and rng.ndim == 1 and rng.shape[0] in (2, 4)
  if not (old or (_is_key(rng) and rng.ndim == 0)):
    raise ValueError(
      f'rng must be one PRNG key, got {rng.dtype}{list(rng.shape)}. '
      'Pass jax.random.key(seed) first, then the scores.'
    )
  return rng


def compute_dtype(*arrays: jax.Array | None) -> Any:
  """float64 if any of them is, else float32."""
  wide = any(x is not None and x.dtype == jnp.float64 for x in arrays)
  return jnp.dtype(jnp.float64 if wide else jnp.float32)


def result_dtype(*arrays: jax.Array) -> Any:
  """The dtype of all of them, or `compute_dtype` if they differ."""
  if len({x.dtype for x in arrays}) == 1:
    return arrays[0].dtype
  return compute_dtype(*arrays)


def spread(
  *arrays: jax.Array, where: jax.Array | None
) -> tuple[jax.Array, ...]:
  """Arrays in the dtype that they are computed in, and a mask, of one shape."""
  masks = () if where is None else (where.shape,)
  shape = jnp.broadcast_shapes(*(x.shape for x in arrays), *masks)
  dtype = compute_dtype(*arrays)
  found = [jnp.broadcast_to(x.astype(dtype), shape) for x in arrays]
  if where is None:
    where = jnp.ones(shape, bool)
  return (*found, jnp.broadcast_to(where, shape))


def _array(x: Any, name: str) -> jax.Array:
  if isinstance(x, jax.Array):
    return x
  try:
    return jnp.asarray(x)
  except (TypeError, ValueError) as error:
    raise ValueError(
      f'{name} must be an array, got {type(x).__name__}. '
      'Convert it with jnp.asarray.'
    ) from error


def _is_key(x: jax.Array) -> bool:
  return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)

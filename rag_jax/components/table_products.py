"""Products of states with the rows of the output table of the ID decoder."""

import jax
import jax.numpy as jnp

from rag_jax.components import query_encoder
from rag_jax.ops import beam, split_rows

# Up to about this ratio of table rows to requested rows, a product with the
# whole table takes less time and memory than gathering the rows, forward and
# backward. For 32 x 10 states of width 384 on two CPU cores, product and gather
# take 0.8 and 3.5 ms at ratio 9, and 4.4 and 3.9 ms at ratio 68.
MAX_PRODUCT_RATIO = 32


def of_rows(
  states: jax.Array,
  table: jax.Array | split_rows.Rows,
  rows: jax.Array,
  unit: bool,
) -> jax.Array:
  """Products of states with the requested rows of a table.

  Args:
    states: float32[B, K, D].
    table: float32[n, D], rows of any length.
    rows: int32[B, K, C], the requested rows.
    unit: whether states have unit length; then the products are cosines.

  Returns:
    float32[B, K, C].
  """
  if len(table) <= MAX_PRODUCT_RATIO * rows.shape[-1]:
    return take(of_all(states, table, unit), rows, table)
  if isinstance(table, split_rows.Rows):
    scale = query_encoder.inverse_norm if unit else None
    return split_rows.products(table.array, states, rows, scale=scale)
  vectors = table[rows]  # [B, K, C, D]
  products = jnp.einsum('bkd,bkcd->bkc', states, vectors)
  return products * query_encoder.inverse_norm(vectors) if unit else products


def of_all(
  states: jax.Array, table: jax.Array | split_rows.Rows, unit: bool
) -> jax.Array:
  """Products of states float32[..., D] with all rows [n, D]: [..., n].

  Normalising the products instead of the rows avoids a copy of the table and of
  its gradient.
  """
  if isinstance(table, split_rows.Rows):
    table = table.array
    products = split_rows.all_products(table, states)
  else:
    products = split_rows.dot(states, table)
  return products * query_encoder.inverse_norm(table) if unit else products


def take(
  products: jax.Array, rows: jax.Array, table: jax.Array | split_rows.Rows
) -> jax.Array:
  """Reads columns of `of_all`."""
  if isinstance(table, split_rows.Rows):
    return split_rows.take(products, rows)
  return beam.take(products, rows)

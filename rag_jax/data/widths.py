"""Widths of arrays of questions: as wide as the longest question of a batch.

A compiled program has one width. Questions are never cut to it: batches come in
a few widths, each compiled when a question first needs it. One number, the
room, decides on the widths of all arrays of a batch:

- `query`: as many tokens as the room;
- `words`: two thirds, since a word has more than one token on average;
- `reader_query`: as many tokens and those of the prompt of the reader.

Padding changes no result, so a question has the same answer in every width.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rag_jax import types

LEAST = 24  # tokens: the smallest room, enough for most questions
LIMIT = 512  # tokens of a question, if its encoder has no smaller limit
WORDS = LIMIT // 3 * 2  # known words of a question for BM25
NEAR = 1.5  # a room is left out in training if the next is not as much larger


def needed(questions: Any, *, prompt: int = 0) -> np.ndarray:
  """The room that each question needs, int[n].

  Args:
    questions: arrays `query`, `words` and `reader_query`, as
      `batches.Questions`.
    prompt: tokens of the reader's prompt in `reader_query`.
  """
  room = _length(questions.query)
  if questions.words is not None:
    room = np.maximum(room, -(-_length(questions.words) * 3 // 2))
  if questions.reader_query is not None:
    room = np.maximum(room, _length(questions.reader_query) - prompt)
  return room


def rooms(largest: int, *, training: bool = False) -> list[int]:
  """The rooms up to the first that holds `largest`, ascending.

  Each is twice the one before. In training, where every width takes long to
  compile, the last one is `largest` itself.

  Example:
    >>> rooms(60), rooms(60, training=True), rooms(30, training=True)
    ([24, 48, 96], [24, 60], [30])
  """
  found = [LEAST]
  while found[-1] < largest:
    found.append(2 * found[-1])
  if not training:
    return found
  return [room for room in found if NEAR * room < largest] + [largest]


def resize(
  questions: Any,
  room: int,
  *,
  prompt: int = 0,
  max_tokens: int | None = None,
  pads: bool = True,
) -> Any:
  """The arrays at the widths of a room; only padding is added or removed.

  Args:
    questions: as in `needed`, in which each question needs at most `room`.
    room: one of `rooms`.
    prompt: tokens of the reader's prompt in `reader_query`.
    max_tokens: maximum width of `query`; None = no maximum.
    pads: whether arrays that are narrower get padding.
  """
  sizes = {
    'query': room if max_tokens is None else min(room, max_tokens),
    'words': -(-room * 2 // 3),
    'reader_query': room + prompt,
  }
  return dataclasses.replace(
    questions,
    **{
      name: fit(array, size if pads else min(size, array.shape[-1]))
      for name, size in sizes.items()
      if (array := getattr(questions, name)) is not None
    },
  )


def fit(array: np.ndarray, width: int) -> np.ndarray:
  """Adds or removes padding at the end of the last axis."""
  missing = width - array.shape[-1]
  if missing <= 0:
    return array[..., :width]
  return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, missing)])


def trim(array: np.ndarray) -> np.ndarray:
  """Removes padding that all rows share, except for one column.

  Example:
    >>> trim(np.array([[5, 0, 0], [5, 6, 0]])).tolist()
    [[5, 0], [5, 6]]
  """
  return array[..., : max(int(_length(array).max(initial=0)), 1)]


def groups(
  room: np.ndarray, sizes: Sequence[int], batch_size: int
) -> Iterator[tuple[int, np.ndarray]]:
  """Yields (room, rows) of batches of questions that share a room.

  Questions that do not fill a batch of their own room join those of the next
  larger one, since compiling another width takes longer than the padding.

  Args:
    room: int[n], from `needed`.
    sizes: from `rooms`.
    batch_size: maximum rows of a batch.

  Example:
    >>> room = np.array([20, 30, 20, 80])
    >>> [(size, rows.tolist()) for size, rows in groups(room, [24, 48, 96], 2)]
    [(24, [0, 2]), (96, [1, 3])]
  """
  level = np.searchsorted(sizes, room)
  for place in range(len(sizes) - 1):
    if (level == place).sum() < batch_size and (level > place).any():
      level[level == place] = level[level > place].min()
  for place, size in enumerate(sizes):
    rows = np.flatnonzero(level == place)
    for start in range(0, len(rows), batch_size):
      yield size, rows[start : start + batch_size]


def _length(array: np.ndarray) -> np.ndarray:
  """Tokens up to the last that is no padding, int[n]."""
  real = np.asarray(array) != types.PAD
  last = real.shape[-1] - np.argmax(real[..., ::-1], axis=-1)
  return np.where(real.any(axis=-1), last, 0)

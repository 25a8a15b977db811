"""Step time and communication of a training step on 1, 2, 4 and 8 devices.

  python benchmarks/scaling.py [--steps=10] [--meshes=data=8 fsdp=4,data=2]
  python benchmarks/scaling.py --config=beir --documents=20000

The devices are parts of one CPU (`jax_num_cpu_devices`), so the time shows the
overhead of a divided program, not a speed-up. The bytes are those of the
collective operations of the compiled program, per device and step, in loops as
often as XLA says that they run. An all-reduce counts once, although each device
sends and receives about twice its size; so an all-reduce of the gradients
counts as one time the gradients.
"""

import argparse
import dataclasses
import functools
import json
import math
import re
import statistics
import tempfile
import time
from collections.abc import Iterator

KINDS = (
  *('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all'),
  'collective-permute',
)
BYTES = {'pred': 1, 'bf16': 2, 'f16': 2, 'f32': 4, 'f64': 8}


@dataclasses.dataclass(frozen=True)
class Collective:
  """A collective operation of a compiled program."""

  kind: str
  shapes: tuple[tuple[int, ...], ...]  # of its results
  bytes: int  # of its results
  times: int  # how often it runs in a call of the program


def collectives(text: str) -> list[Collective]:
  """The collective operations in the text of a compiled program.

  Args:
    text: from `compile().as_text()`.
  """
  bodies = _computations(text)
  found = []
  for name, times in _called(bodies):
    for line in bodies[name]:
      kinds = '|'.join(KINDS)
      match = re.search(rf' = (.*?) ({kinds})(-start)?\(', line)
      if not match:
        continue
      arrays = re.findall(r'(\w+)\[([\d,]*)\]', match[1])
      if match[3] and match[2] != 'all-reduce':
        arrays = arrays[len(arrays) // 2 :]  # operands come first
      shapes = tuple(
        tuple(map(int, filter(None, shape.split(',')))) for _, shape in arrays
      )
      size = sum(
        math.prod(shape) * _width(dtype)
        for (dtype, _), shape in zip(arrays, shapes, strict=True)
      )
      found.append(Collective(match[2], shapes, size, times))
  return found


def _width(dtype: str) -> int:
  digits = re.search(r'\d+', dtype)
  return BYTES.get(dtype) or max(int(digits[0]) // 8, 1) if digits else 1


def _computations(text: str) -> dict[str, list[str]]:
  """Name -> lines of each computation; the first is ENTRY."""
  found: dict[str, list[str]] = {}
  own: list[str] = []
  for line in text.splitlines():
    if match := re.match(r'(ENTRY )?%?([\w.\-]+) .*\{$', line):
      own = found.setdefault('ENTRY' if match[1] else match[2], [])
    else:
      own.append(line)
  return found


def _called(bodies: dict[str, list[str]]) -> Iterator[tuple[str, int]]:
  """Each computation, as often as it is called from ENTRY."""
  stack = [('ENTRY', 1)]
  while stack:
    name, times = stack.pop()
    yield name, times
    for line in bodies[name]:
      trips = re.search(r'known_trip_count[^\d]*(\d+)', line)
      for key, called in re.findall(r'(\w+)=%([\w.\-]+)', line):
        if key in ('body', 'condition', 'to_apply', 'calls') and (
          called in bodies
        ):
          loops = int(trips[1]) if trips and key == 'body' else 1
          stack.append((called, times * loops))


def total(found: list[Collective], kind: str = '') -> int:
  """Bytes of the operations of a kind in a step; '' = of all."""
  return sum(own.bytes * own.times for own in found if kind in ('', own.kind))

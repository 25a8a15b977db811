"""Docids in order: as Python sorts them, however they came and went."""

import numpy as np
import pytest

from rag_jax.ops import docid_order

WIDTHS = pytest.mark.parametrize('width, length', [(3, 9), (300, 4), (5000, 8)])


def draw(count, width, length):
  rng = np.random.default_rng(count + width)
  skewed = (width * rng.random((count, length)) ** 4).astype(int)
  codes = np.unique(skewed, axis=0)
  rng.shuffle(codes)
  return codes


@pytest.mark.parametrize('count', [1, 300, 5000])
@WIDTHS
def test_docids_of_any_width_are_sorted_and_compared(count, width, length):
  codes = draw(count, width, length)
  order = docid_order.sort(codes)
  ordered = codes[order.rows]
  np.testing.assert_array_equal(ordered, np.unique(codes, axis=0))
  shared = order.shared()
  for place in range(1, len(codes)):
    same = ordered[place] == ordered[place - 1]
    assert shared[place] == np.argmin(same)
  for level in range(length):
    np.testing.assert_array_equal(
      order.code(level, np.arange(len(codes))), ordered[:, level]
    )


@WIDTHS
def test_what_is_kept_up_is_what_is_sorted_anew(width, length):
  codes = draw(3000, width, length)
  rng = np.random.default_rng(0)
  bits = docid_order.widths([width] * length)
  inside = rng.random(len(codes)) < 0.5
  rows = np.flatnonzero(inside)
  order = docid_order.sort(codes[rows], rows=rows, bits=bits)
  for _ in range(20):
    gone = rng.permutation(np.flatnonzero(inside))[: rng.integers(9)]
    come = rng.permutation(np.flatnonzero(~inside))[: rng.integers(9)]
    inside[gone], inside[come] = False, True
    order = docid_order.insert(order, codes[come], come)
    order = docid_order.remove(order, gone)
  rows = np.flatnonzero(inside)
  fresh = docid_order.sort(codes[rows], rows=rows, bits=bits)
  np.testing.assert_array_equal(order.rows, fresh.rows)
  for ours, theirs in zip(order.words, fresh.words, strict=True):
    np.testing.assert_array_equal(ours, theirs)


@WIDTHS
def test_prefixes_are_found_where_a_loop_finds_them(width, length):
  codes = draw(400, width, length)
  order = docid_order.sort(codes)
  ordered = codes[order.rows].tolist()
  everywhere = np.arange(len(codes))
  for depth in (1, length // 2, length):
    nodes = order.prefixes(depth, everywhere)
    low, high = docid_order.find(nodes, nodes)
    prefixes = [row[:depth] for row in ordered]
    for place, prefix in enumerate(prefixes):
      assert low[place] == prefixes.index(prefix)
      assert high[place] - low[place] == prefixes.count(prefix)


def test_what_is_not_there_has_no_place():
  order = docid_order.sort(np.array([[2], [4]]), bits=(3,))
  wanted = docid_order.pack(np.array([[1], [4], [7]]), (3,))
  low, high = docid_order.find(order.words, wanted)
  assert (low.tolist(), high.tolist()) == ([0, 1, 2], [0, 2, 2])

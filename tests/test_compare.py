"""Significance tests between runs, against scipy and enumeration."""

import itertools
import json

import numpy as np
import pytest
from scipy import stats

from rag_jax import compare, report


def write(folder, values, split='dev', system='answers', **fields):
  """Writes a run; `values` maps a measure to its values per question."""
  folder.mkdir(parents=True, exist_ok=True)
  lines = []
  for row in range(max(map(len, values.values()))):
    line = {
      'id': f'q{row}',
      'question': f'What is {row}?',
      'gold_answers': [str(row)],
      'gold_documents': {f'd{row}': 1},
      'answerable': True,
    } | fields
    own = {name: value[row] for name, value in values.items()}
    known = {name: value for name, value in own.items() if value is not None}
    line['measures'] = {system: known} if known else {}
    lines.append(json.dumps(line) + '\n')
  (folder / f'answers-{split}.jsonl').write_text(''.join(lines))
  return folder


def draw(seed, count=200):
  return np.random.default_rng(seed).random(count).round(2).tolist()


def test_means_differences_and_counts(tmp_path):
  first = write(
    tmp_path / 'a', {'EM': [1, 0, 0, 1, 0], 'F1': [1, 0, 0.5, 1, 0]}
  )
  other = write(tmp_path / 'b', {'EM': [1, 1, 1, 0, 0], 'F1': [1, 1, 0, 1, 0]})
  exact, overlap = compare.differences([first, other])
  assert (exact.split, exact.system, exact.metric) == ('dev', 'answers', 'EM')
  assert exact.means == pytest.approx((0.4, 0.6))
  assert exact.value == pytest.approx(0.2)
  assert (exact.better, exact.worse, exact.count) == (2, 1, 5)
  assert exact.low <= exact.value <= exact.high
  assert overlap.value == pytest.approx(0.1)
  assert (overlap.better, overlap.worse) == (1, 1)


def test_p_equals_enumeration_of_all_signs():
  rng = np.random.default_rng(1)
  for values in (rng.normal(0.3, 1, 10), rng.integers(-1, 2, 10) * 1.0):
    signs = itertools.product((1, -1), repeat=10)
    totals = np.array([abs(values @ np.array(sign)) for sign in signs])
    exact = (totals >= abs(values.sum()) - 1e-9).mean()
    assert compare.sign_flip(values) == pytest.approx(exact, abs=0.02)


def test_p_and_interval_equal_those_of_scipy():
  change = np.random.default_rng(2).normal(0.05, 0.5, 300)
  theirs = stats.permutation_test(
    (change,), np.mean, permutation_type='samples', n_resamples=9999, rng=0
  )
  assert compare.sign_flip(change) == pytest.approx(theirs.pvalue, abs=0.02)
  interval = stats.bootstrap((change,), np.mean, rng=0).confidence_interval
  own = report.summarise('', '', '', change)
  assert own.low == pytest.approx(interval.low, abs=0.01)
  assert own.high == pytest.approx(interval.high, abs=0.01)


def test_p_is_uniform_under_the_null_hypothesis():
  rng = np.random.default_rng(3)
  found = [compare.sign_flip(rng.normal(size=40)) for _ in range(200)]
  assert stats.kstest(found, 'uniform').pvalue > 0.01


def test_a_run_compared_with_itself(tmp_path):
  first = write(tmp_path / 'a', {'EM': draw(0)})
  [own] = compare.differences([first, first])
  assert (own.value, own.low, own.high, own.p) == (0, 0, 0, 1)
  assert (own.better, own.worse) == (0, 0)
  text = compare.compare([first, first])
  assert 'answers: equal on every question' in text


def test_the_result_is_deterministic_and_ignores_the_order_of_lines(tmp_path):
  first = write(tmp_path / 'a', {'EM': draw(0)})
  other = write(tmp_path / 'b', {'EM': draw(1)})
  found = compare.differences([first, other])
  path = other / 'answers-dev.jsonl'
  lines = path.read_text().splitlines(keepends=True)
  path.write_text(''.join(reversed(lines)))
  assert compare.differences([first, other]) == found


def test_only_values_of_both_runs_are_compared(tmp_path):
  first = write(tmp_path / 'a', {'EM': [1, None, 0], 'F1': [1, 1, 1]})
  write(tmp_path / 'a', {'EM': [1]}, split='alone')
  other = write(tmp_path / 'b', {'EM': [None, 1, 1], 'ROUGE-L': [1, 1, 1]})
  [own] = compare.differences([first, other])
  assert (own.metric, own.count, own.value) == ('EM', 1, 1.0)


def test_lower_beam_regret_is_better(tmp_path):
  first = write(tmp_path / 'a', {'beam regret': [0.5, 0.0]})
  other = write(tmp_path / 'b', {'beam regret': [0.0, 0.0]})
  [own] = compare.differences([first, other])
  assert (own.value, own.better, own.worse) == (-0.25, 1, 0)


def test_the_first_run_is_compared_with_each_other_run(tmp_path):
  folders = [write(tmp_path / n, {'EM': draw(ord(n))}) for n in 'abc']
  found = compare.differences(folders)
  assert [(d.first[-1], d.other[-1]) for d in found] == [('a', 'b'), ('a', 'c')]


def test_the_text_fits_80_columns(tmp_path):
  long = tmp_path / ('a-long-name' * 9)
  values = {
    'EM': draw(0, 20_000),
    'a measure with a long name': draw(1, 20_000),
  }
  first = write(long / 'a', values, split='s' * 90)
  values = {name: value[::-1] for name, value in values.items()}
  other = write(long / 'b', values, split='s' * 90)
  text = compare.compare([first, other])
  assert max(map(len, text.splitlines())) <= 80
  colored = compare.compare([first, other], color=True)
  for code in (report.BOLD, report.DIM, report.PLAIN):
    assert code in colored
    colored = colored.replace(code, '')
  assert colored == text


def test_an_older_workdir_uses_its_newest_evaluation(tmp_path):
  for number, value in (('001', 0), ('002', 1)):
    write(tmp_path / 'old' / 'evaluations' / number, {'EM': [value]})
  new = write(tmp_path / 'new', {'EM': [1]})
  [own] = compare.differences([tmp_path / 'old', new])
  assert own.means == (1, 1)


@pytest.mark.parametrize(
  'change, words',
  [
    (
      {'values': {'EM': [1, 0, 1]}},
      "different questions in split 'dev'.*1 are in",
    ),
    ({'question': 'Why?'}, 'different questions.*2 differ.*same data'),
    ({'gold_answers': ['x']}, 'different questions in .*2 differ'),
    ({'split': 'test'}, 'share no split: dev and test.*eval_splits'),
  ],
)
def test_different_questions_raise_a_one_line_error(tmp_path, change, words):
  first = write(tmp_path / 'a', {'EM': [1, 0]})
  options = {'values': {'EM': [1, 0]}} | change
  other = write(tmp_path / 'b', **options)
  with pytest.raises(ValueError, match=words) as caught:
    compare.compare([first, other])
  assert '\n' not in str(caught.value)


def test_errors_of_missing_and_damaged_files_name_the_command(tmp_path):
  first = write(tmp_path / 'a', {'EM': [1, 0]})
  with pytest.raises(ValueError, match='at least 2 workdirs, got 1'):
    compare.compare([first])
  empty = tmp_path / 'empty'
  with pytest.raises(ValueError, match='empty.* is no folder'):
    compare.compare([first, empty])
  empty.mkdir()
  with pytest.raises(
    ValueError, match='no answers.*evaluate --workdir=.*empty'
  ):
    compare.compare([first, empty])
  for text in ('{"id": "q0"}', '{"id', '[]', '{"id": 1, "measures": 2}'):
    (empty / 'answers-dev.jsonl').write_text(text + '\n')
    with pytest.raises(ValueError, match='cannot be read .*evaluate'):
      compare.compare([first, empty])

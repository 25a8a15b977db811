import dataclasses
import io
import json
import re

import numpy as np
import pytest
from scipy import stats

from rag_jax import files, report


def result(system, value, split='dev', metric='EM'):
  return report.summarise(split, system, metric, np.array([value]))


def test_the_interval_contains_the_mean_and_narrows_with_more_questions():
  rng = np.random.default_rng(0)
  widths = []
  for count in (20, 2000):
    values = rng.random(count) < 0.7
    found = report.summarise('dev', 'index', 'Hits@1', values)
    assert found.value == pytest.approx(values.mean())
    assert found.low <= found.value <= found.high
    assert found.count == count
    widths.append(found.high - found.low)
  assert widths[1] < widths[0] / 5


def test_the_interval_matches_the_normal_approximation():
  values = np.arange(1000) < 800
  found = report.summarise('dev', 'index', 'Hits@1', values)
  spread = 1.96 * np.sqrt(0.8 * 0.2 / 1000)
  assert found.low == pytest.approx(0.8 - spread, abs=0.005)
  assert found.high == pytest.approx(0.8 + spread, abs=0.005)


@pytest.mark.parametrize('count, right', [(1000, 800), (300, 60)])
def test_the_interval_covers_95_percent_of_a_binomial(count, right):
  values = np.arange(count) < right
  drawn = stats.binom(count, right / count)
  shares, tails = [], []
  for seed in range(30):  # seed of the bootstrap
    found = report.summarise('dev', 'index', 'Hits@1', values, seed=seed)
    low, high = round(found.low * count), round(found.high * count)
    shares.append(drawn.cdf(high) - drawn.cdf(low - 1))
    tails.append((drawn.cdf(low - 1), drawn.sf(high)))
  assert np.mean(shares) == pytest.approx(0.95, abs=0.015)
  np.testing.assert_allclose(np.mean(tails, axis=0), 0.025, atol=0.0075)


@pytest.mark.parametrize('values', [[], [1.0, float('nan')]])
def test_missing_or_non_finite_values_raise_an_error(values):
  with pytest.raises(ValueError, match='EM of reader on dev must be finite'):
    report.summarise('dev', 'reader', 'EM', np.array(values))


def test_results_survive_a_round_trip(tmp_path):
  results = [result('BM25', 0.25), result('reader', 1.0)]
  report.save_results(tmp_path / 'results.json', results)
  assert report.load_results(tmp_path / 'results.json') == results
  row = json.loads((tmp_path / 'results.json').read_text())['results'][0]
  fields = ['split', 'system', 'metric', 'value', 'low', 'high', 'count']
  assert list(row) == fields
  assert [p.name for p in tmp_path.iterdir()] == ['results.json']


def test_provenance_is_separate_from_the_results(tmp_path):
  results = [result('BM25', 0.25)]
  report.save_results(tmp_path / 'results.json', results, {'seed': 3})
  both = json.loads((tmp_path / 'results.json').read_text())
  assert list(both) == ['provenance', 'warnings', 'results']
  assert both['provenance'] == {'seed': 3}
  assert report.load_results(tmp_path / 'results.json') == results


def test_results_of_an_older_version_are_read(tmp_path):
  results = [result('BM25', 0.25)]
  rows = [dataclasses.asdict(r) for r in results]
  (tmp_path / 'results.json').write_text(json.dumps(rows))
  assert report.load_results(tmp_path / 'results.json') == results


def test_files_are_written_atomically(tmp_path):
  path = tmp_path / 'results.json'
  files.write(path, 'before')
  with pytest.raises(UnicodeEncodeError):
    files.write(path, 'half \ud800')
  assert path.read_text() == 'before'
  assert [p.name for p in tmp_path.iterdir()] == ['results.json']


def test_untrained_rows_are_above_their_system():
  after = [result('BM25', 0.5), result('index', 0.9)]
  before = [result('index', 0.1)]
  systems = [r.system for r in report.merge(after, before)]
  assert systems == ['BM25', 'index, untrained', 'index']


def test_the_table_has_a_block_per_split_and_a_row_per_system():
  text = report.table(
    [result('BM25', 0.5), result('index', 1.0), result('BM25', 0.0, 'test')]
  )
  blocks = text.split('\n\n')
  assert [block.split()[0] for block in blocks] == ['dev', 'test']
  assert len(blocks[0].splitlines()) == 4
  assert '.500 .50-.50' in blocks[0]


def everything(split):
  """Results for all measures, of systems with long names."""
  found = {
    'dense + BM25, exact': report.ORDER[:8],
    'generative index, untrained': report.ORDER[: report.ORDER.index('EM')],
    'answers from gold documents': report.ANSWERS,
    'answers': (
      *(*report.ANSWERS, *report.SUMMARIES, *report.TRUST),
      *report.KEPT_ONLY,
    ),
    'health': report.HEALTH,
  }
  return [
    result(system, value, split, metric)
    for value, (system, metrics) in zip(
      (0.0, 0.5, 0.9999, 1.0, 0.25), found.items(), strict=True
    )
    for metric in metrics
  ]


@pytest.mark.parametrize('color', [False, True])
@pytest.mark.parametrize('split', ['dev', 'a split ' * 20, 'x' * 200])
def test_the_table_fits_80_columns(split, color):
  text = report.table(everything(split), color=color)
  for code in (report.BOLD, report.DIM, report.PLAIN):
    assert (code in text) == color
    text = text.replace(code, '')
  lines = text.splitlines()
  assert max(map(len, lines)) <= 80
  seen, wanted = (re.sub(r'\s', '', part) for part in (text, split))
  assert seen.startswith(wanted)
  for metric in (*report.ORDER, *report.KEPT_ONLY):
    assert metric in ' '.join(text.split())  # a list that is wrapped
  headers = [line for line in lines if ' EM ' in line or 'Hits@1 ' in line]
  assert len(headers) == 2  # retrieval, and answers below it


def test_each_cell_is_below_its_measure():
  results = everything('dev')
  lines = report.table(results).splitlines()
  known = {(r.system, r.metric): r.value for r in results}
  seen = 0
  header: list[tuple[str, int]] = []
  longest = sorted({m for _, m in known}, key=len, reverse=True)
  names = re.compile('|'.join(map(re.escape, longest)))
  for line in lines[1 : lines.index('')]:
    if line.startswith('  '):
      header = [(name[0], name.end()) for name in names.finditer(line)]
      continue
    system = re.split(r' +[.\d]', line)[0].strip()
    for metric, end in header:
      cell = line[end - report.CELL : end].strip()
      if (system, metric) in known:
        value = report.short(known[system, metric], 3)
        assert cell.split()[0] == value, (system, metric, cell)
        seen += 1
      else:
        assert not cell
  assert seen == len([r for r in results if r.metric not in report.KEPT_ONLY])


def test_redundant_measures_are_not_in_the_table():
  one = [result('BM25', 0.5, metric=m) for m in ('MRR@10', 'nDCG@10', 'MAP')]
  text = report.table(one)
  assert 'not in the table: nDCG@10, MAP (see results.json)' in text
  several = report.table([*one, result('BM25', 0.5, metric='R-precision')])
  assert 'not in the table' not in several


@pytest.mark.parametrize(
  'terminal, variables, wanted',
  [
    (True, {}, True),
    (False, {}, False),
    (True, {'NO_COLOR': '1'}, False),
    (True, {'NO_COLOR': ''}, True),  # see no-color.org
    (True, {'TERM': 'dumb'}, False),
  ],
)
def test_colour_is_for_terminals(monkeypatch, terminal, variables, wanted):
  for name in ('NO_COLOR', 'TERM'):
    monkeypatch.delenv(name, raising=False)
  for name, value in variables.items():
    monkeypatch.setenv(name, value)
  stream = io.StringIO()
  monkeypatch.setattr(stream, 'isatty', lambda: terminal, raising=False)
  assert report.wants_color(stream) == wanted


class TestMetricsWriter:
  def records(self, folder):
    lines = (folder / 'metrics.jsonl').read_text().splitlines()
    return [json.loads(line) for line in lines]

  def write(self, folder, steps, start=0):
    writer = report.MetricsWriter(folder, start)
    for step in steps:
      writer.write(step, 'train', {'loss': step / 2})
    writer.close()

  def test_a_resumed_run_drops_later_records(self, tmp_path):
    self.write(tmp_path, [1, 2, 3, 4])
    self.write(tmp_path, [3, 4], start=2)
    assert [r['step'] for r in self.records(tmp_path)] == [1, 2, 3, 4]

  def test_an_incomplete_line_is_dropped(self, tmp_path):
    self.write(tmp_path, [1, 2])
    with (tmp_path / 'metrics.jsonl').open('a') as file:
      file.write('{"step": 3, "lo')
    self.write(tmp_path, [3], start=2)
    assert [r['step'] for r in self.records(tmp_path)] == [1, 2, 3]

  def test_values_that_are_not_finite_are_left_out(self, tmp_path):
    writer = report.MetricsWriter(tmp_path)
    writer.write(1, 'train', {'loss': float('inf'), 'hits': 0.5})
    writer.close()
    assert self.records(tmp_path) == [
      {'step': 1, 'split': 'train', 'hits': 0.5}
    ]


def test_measures_outside_the_table_are_listed_below_it():
  values = np.array([1.0, 0.0])
  shown = [report.summarise('dev', 'answers', 'EM', values)]
  kept = report.summarise('dev', 'answers', 'words', values)
  text = report.table([*shown, kept])
  assert text.startswith(report.table(shown))
  assert text.endswith('\n\nnot in the table: words (see results.json)')

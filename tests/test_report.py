import json

import numpy as np
import pytest
from scipy import stats

from rag_jax import report


def result(system, value, split='dev', metric='EM'):
  return report.summarise(split, system, metric, np.array([value]))


def test_the_interval_holds_the_mean_and_narrows_with_more_questions():
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


def test_the_interval_is_that_of_the_normal_approximation():
  values = np.arange(1000) < 800
  found = report.summarise('dev', 'index', 'Hits@1', values)
  spread = 1.96 * np.sqrt(0.8 * 0.2 / 1000)
  assert found.low == pytest.approx(0.8 - spread, abs=0.005)
  assert found.high == pytest.approx(0.8 + spread, abs=0.005)


@pytest.mark.parametrize('count, right', [(1000, 800), (300, 60)])
def test_the_interval_holds_95_of_100_draws_of_a_binomial(count, right):
  values = np.arange(count) < right
  drawn = stats.binom(count, right / count)
  shares, beside = [], []
  for seed in range(30):  # of the bootstrap, which draws too
    found = report.summarise('dev', 'index', 'Hits@1', values, seed=seed)
    low, high = round(found.low * count), round(found.high * count)
    shares.append(drawn.cdf(high) - drawn.cdf(low - 1))
    beside.append((drawn.cdf(low - 1), drawn.sf(high)))
  assert np.mean(shares) == pytest.approx(0.95, abs=0.015)
  np.testing.assert_allclose(np.mean(beside, axis=0), 0.025, atol=0.0075)


@pytest.mark.parametrize('values', [[], [1.0, float('nan')]])
def test_no_number_is_made_up(values):
  with pytest.raises(ValueError, match='EM of reader on dev must be finite'):
    report.summarise('dev', 'reader', 'EM', np.array(values))


def test_results_come_back_as_they_were(tmp_path):
  results = [result('BM25', 0.25), result('reader', 1.0)]
  report.save_results(tmp_path / 'results.json', results)
  assert report.load_results(tmp_path / 'results.json') == results
  row = json.loads((tmp_path / 'results.json').read_text())[0]
  fields = ['split', 'system', 'metric', 'value', 'low', 'high', 'count']
  assert list(row) == fields
  assert [p.name for p in tmp_path.iterdir()] == ['results.json']


def test_untrained_rows_stand_above_their_own_system():
  after = [result('BM25', 0.5), result('index', 0.9)]
  before = [result('index', 0.1)]
  systems = [r.system for r in report.merge(after, before)]
  assert systems == ['BM25', 'index, untrained', 'index']


def test_the_table_has_a_block_a_split_and_a_row_a_system():
  text = report.table(
    [result('BM25', 0.5), result('index', 1.0), result('BM25', 0.0, 'test')]
  )
  blocks = text.split('\n\n')
  assert [block.split()[0] for block in blocks] == ['dev', 'test']
  assert len(blocks[0].splitlines()) == 4
  assert '0.500 0.50-0.50' in blocks[0]


class TestMetricsWriter:
  def records(self, folder):
    lines = (folder / 'metrics.jsonl').read_text().splitlines()
    return [json.loads(line) for line in lines]

  def write(self, folder, steps, start=0):
    writer = report.MetricsWriter(folder, start)
    for step in steps:
      writer.write(step, 'train', {'loss': step / 2})
    writer.close()

  def test_a_resumed_run_drops_what_it_will_write_again(self, tmp_path):
    self.write(tmp_path, [1, 2, 3, 4])
    self.write(tmp_path, [3, 4], start=2)
    assert [r['step'] for r in self.records(tmp_path)] == [1, 2, 3, 4]

  def test_a_line_that_a_kill_cut_off_is_dropped(self, tmp_path):
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


def test_progress_shows_loss_speed_and_time_left(capsys):
  with report.Progress(100, every=0) as progress:
    progress.update(10, loss=1.5, examples=320)
    progress.update(100, loss=0.5, examples=2880)
  lines = capsys.readouterr().err.splitlines()
  assert lines[0].startswith('step 10/100  loss 1.500  ')
  assert lines[1].startswith('step 100/100  loss 0.500  ')
  assert lines[1].endswith('  0 s left')
  assert all('examples/s' in line for line in lines)


def test_measures_that_are_kept_only_are_named_below_the_table():
  values = np.array([1.0, 0.0])
  shown = [report.summarise('dev', 'answers', 'EM', values)]
  kept = report.summarise('dev', 'answers', 'ECE', values)
  text = report.table([*shown, kept])
  assert text.startswith(report.table(shown))
  assert text.endswith('\n\nnot in the table: ECE (see results.json)')

"""What the page holds, and what is said where a file is missing."""

import base64
import gzip
import json
import re
import shutil

import numpy as np
import pytest

from rag_jax.page import build, curves, questions, runs

STATIC = sorted(build.STATIC.glob('*.js'))


def content(path):
  """The data of a page."""
  packed = re.search(r'id="data">([^<]*)<', path.read_text())[1]
  return json.loads(gzip.decompress(base64.b64decode(packed)))


@pytest.fixture(scope='module')
def both(two_runs, tmp_path_factory):
  file = tmp_path_factory.mktemp('page') / 'both.html'
  return build.write(two_runs, file)


def test_a_page_holds_the_values_of_the_files(both, two_runs):
  found = content(both)
  first, second = found['runs']
  assert (first['name'], second['name']) == ('one', 'two')
  assert first['results'] == [['dev', 'answers', 'EM', 0.375, 0.2, 0.8, 8]]
  assert first['warnings'] == ['The beam mass is low.']
  assert first['certificate']['threshold'] == 0.55
  assert 'held_out' not in first['calibrator']
  assert second['certificate'] is None and second['calibrator'] is None
  assert first['curves']['train']['loss'] == [[1, 2.0], [2, 1.0], [3, 0.6667]]
  [pair] = found['differences']
  exact = next(row for row in pair['rows'] if row[2] == 'EM')
  assert exact[3:5] == [[0.375, 0.25], -0.125]
  assert exact[-3:] == [0, 1, 8]


def test_questions_come_worst_first_with_their_documents(both):
  found = content(both)
  rows = found['runs'][0]['questions']
  outcomes = [row['outcome'] for row in rows]
  assert outcomes == ['wrong'] * 4 + ['abstained'] + ['right'] * 3
  assert [r['confidence'] for r in rows[:2]] == [0.85, 0.75]
  assert [r['confidence'] for r in rows[5:]] == [0.35, 0.55, 0.95]
  row = next(r for r in rows if r['id'] == 'q3/dev')
  [gold] = row['gold']
  name, title, text, codes = found['documents'][gold]
  assert (name, title, codes) == ('d3', 'Bees', [1, 1])
  assert text.startswith('The number is 3.')
  below = found['runs'][0]['below']
  assert below['1'][0] == 2 and below['1/1'][0] == 1
  assert {found['documents'][i][0] for i in below['1'][1]} == {'d2', 'd3'}


def test_texts_cannot_end_the_data(both):
  text = both.read_text()
  assert 'evil' not in text
  assert text.count('</script>') == 2
  policy = re.search(r'content="([^"]*)"', text)[1]
  assert policy.startswith("default-src 'none'")
  assert "'unsafe" not in policy
  everything = '\n'.join(path.read_text() for path in STATIC)
  for unsafe in ('innerHTML', 'outerHTML', 'insertAdjacentHTML', 'write('):
    assert unsafe not in everything, unsafe
  for network in ('fetch(', 'XMLHttpRequest', 'import(', 'http:', 'https:'):
    assert network not in everything.replace('http://www.w3.org', '')


def test_every_script_is_in_the_page():
  assert {path.name for path in STATIC} == set(build.SCRIPTS)


@pytest.mark.parametrize('path', STATIC, ids=lambda path: path.name)
def test_scripts_stay_short(path):
  lines = path.read_text().splitlines()
  assert len(lines) <= 400
  starts = [i for i, x in enumerate(lines) if re.match(r'(async )?function', x)]
  for start in starts:
    end = next(i for i in range(start, len(lines)) if lines[i] == '}')
    assert end - start <= 60, lines[start]


def test_a_page_without_optional_files(two_runs, tmp_path):
  folder = tmp_path / 'bare'
  folder.mkdir()
  for name in ('results.json', 'answers-dev.jsonl'):
    shutil.copy(two_runs[0] / name, folder / name)
  [run] = content(build.write([folder]))['runs']
  assert run['curves'] == {} and run['docids'] is None
  assert all(row['paths'] == [] for row in run['questions'])
  assert [row['fate'] for row in run['questions']].count('not retrieved') == 1
  (folder / 'answers-dev.jsonl').unlink()
  [run] = content(build.write([folder]))['runs']
  assert run['questions'] == [] and run['splits'] == []


def test_errors_name_a_remedy(two_runs, tmp_path):
  with pytest.raises(ValueError, match='needs a workdir, got none.*runs/facts'):
    build.write([])
  with pytest.raises(ValueError, match='is no folder. Name a trained workdir'):
    build.write([tmp_path / 'gone'])
  with pytest.raises(ValueError, match='has no results. Name a trained'):
    build.write([tmp_path])
  with pytest.raises(ValueError, match='cannot be written.*Set --to'):
    build.write(two_runs, tmp_path / 'gone' / 'page.html')
  (tmp_path / 'results.json').write_text('{"results"')
  with pytest.raises(ValueError, match='damaged.*rag-jax evaluate'):
    build.write([tmp_path])


def test_a_failure_at_the_end_of_a_run_is_a_note(tmp_path, capsys):
  build.add(tmp_path)
  assert 'note: no page is written' in capsys.readouterr().err


def test_different_questions_are_shown_without_differences(two_runs, tmp_path):
  folder = tmp_path / 'other'
  shutil.copytree(two_runs[1], folder)
  lines = (folder / 'answers-dev.jsonl').read_text()
  (folder / 'answers-dev.jsonl').write_text(lines.replace('Which', 'What'))
  [pair] = content(build.write([two_runs[0], folder]))['differences']
  assert pair['rows'] == [] and 'different questions' in pair['note']
  (two_runs[0] / build.SEVERAL).unlink()


def test_names_tell_runs_apart(tmp_path):
  folders = [tmp_path / 'a' / 'run', tmp_path / 'b' / 'run']
  assert build._names(folders) == ['a/run', 'b/run']
  inside = tmp_path / 'run' / 'evaluations' / '001'
  assert build._names([tmp_path / 'run', inside]) == ['run', 'run/001']


def test_many_questions_are_evenly_spaced(two_runs, monkeypatch):
  monkeypatch.setattr(runs, 'MOST', 3)
  run = runs.read(two_runs[0], questions.Documents())
  ids = sorted(row['id'] for row in run['questions'])
  assert ids == ['q0/dev', 'q4/dev', 'q7/dev']
  assert run['asked'] == {'dev': 8}


def test_risk_and_coverage_equal_enumeration():
  rng = np.random.default_rng(0)
  confidence = rng.integers(0, 50, 300) / 50
  right = rng.random(300) < confidence
  found = curves.risk_coverage(confidence, right)
  assert len(found) == len(np.unique(confidence))
  for coverage, risk, threshold in found:
    given = confidence >= threshold
    assert coverage == pytest.approx(given.mean(), abs=1e-4)
    assert risk == pytest.approx((~right[given]).mean(), abs=1e-4)
  many = curves.risk_coverage(rng.random(5000), np.ones(5000, bool))
  assert len(many) == curves.POINTS and many[-1][0] == 1.0


def test_bins_of_equal_size_with_wilson_intervals():
  from scipy import stats

  rng = np.random.default_rng(0)
  confidence = rng.random(1000)
  right = rng.random(1000) < confidence
  bins = curves.reliability(confidence, right)
  assert [own['count'] for own in bins] == [100] * curves.BINS
  mean = sum(own['accuracy'] * own['count'] for own in bins) / 1000
  assert mean == pytest.approx(right.mean(), abs=1e-3)
  for own in bins:
    count = round(own['accuracy'] * 100)
    interval = stats.binomtest(count, 100).proportion_ci(method='wilson')
    assert (own['low'], own['high']) == pytest.approx(tuple(interval), abs=1e-3)


def test_use_of_codes():
  codes = np.array([[0, 1], [0, 2], [3, 1]])
  first, second = curves.code_use(codes, codes[:1])
  assert first['documents'] == [2, 0, 0, 1] and first['found'] == [1, 0, 0, 0]
  assert second['documents'] == [0, 2, 1]
  shares = np.array([2, 1]) / 3
  expected = np.exp(-(shares * np.log(shares)).sum())
  assert first['perplexity'] == [pytest.approx(expected, abs=0.01), 1.0]

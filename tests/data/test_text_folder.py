"""Folders of plain text, Markdown, HTML and PDF files."""

import pytest

from rag_jax import types
from rag_jax.data import formats
from rag_jax.data.sources import markup

MARKDOWN = """---
title: "The guide"
tags: [a]
---
Before all headings.

# Install
## On Linux
Run `pip install` with *care*, see [the page](http://x.org).

- one
- two

| a | b |
|---|---|
| c | d |

```
# no heading
```
<div>In <b>HTML</b></div>

## On Mac
Nothing.
"""
HTML = """<!doctype html><html><head><title>The page</title>
<style>p {}</style></head><body><h1>Cats</h1><p>A <b>cat</b>
sleeps.</p><script>var x;</script><!-- no --><ul><li>one<li>two</ul>
<h2>Food</h2>fish<table><tr><td>a</td><td>b</td></tr></table></body></html>"""


def pdf(text):
  """A PDF with one line of text."""
  stream = f'BT /F1 12 Tf 72 700 Td ({text}) Tj ET'.encode()
  objects = [
    b'<</Type/Catalog/Pages 2 0 R>>',
    b'<</Type/Pages/Kids[3 0 R]/Count 1>>',
    b'<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R'
    b'/Resources<</Font<</F1 5 0 R>>>>>>',
    b'<</Length %d>>stream\n%s\nendstream' % (len(stream), stream),
    b'<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>',
  ]
  data, places = b'%PDF-1.4\n', []
  for number, content in enumerate(objects, 1):
    places.append(len(data))
    data += b'%d 0 obj%s endobj\n' % (number, content)
  rows = b''.join(b'%010d 00000 n \n' % place for place in places)
  return data + (
    b'xref\n0 6\n0000000000 65535 f \n%strailer<</Size 6/Root 1 0 R>>\n'
    b'startxref\n%d\n%%%%EOF' % (rows, len(data))
  )


@pytest.fixture
def folder(tmp_path):
  for name, data in {
    'guide.md': MARKDOWN,
    'web/page.html': HTML,
    'web/refund_policy.txt': '\ufeffWe refund.\r\n\r\nAll of it.',
    'web/paper.pdf': pdf('Owls hunt.'),
    'picture.png': b'\x89PNG',
    'web/data.bin': b'x',
    '.git/config.txt': 'hidden',
    'questions-dev.jsonl': '{"question": "who?", "answers": ["owls"], '
    '"document_ids": ["web/paper.pdf"]}',
  }.items():
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
  return tmp_path


def test_a_folder_of_any_files(folder):
  dataset = formats.load(folder)
  found = {d.id: d for d in dataset.documents}
  assert list(found) == [
    'guide.md#1',
    'guide.md#2',
    'guide.md#3',
    'web/page.html#1',
    'web/page.html#2',
    'web/paper.pdf',
    'web/refund_policy.txt',
  ]
  assert found['guide.md#1'].text == 'Before all headings.'
  assert found['guide.md#2'].title == 'The guide > Install > On Linux'
  assert found['guide.md#2'].text.split('\n\n') == [
    'Run pip install with care, see the page.',
    'one',
    'two',
    'a | b',
    'c | d',
    '# no heading',
    'In HTML',
  ]
  assert found['guide.md#3'].title == 'The guide > Install > On Mac'
  assert found['guide.md#3'].parent == 'guide.md'
  assert found['web/page.html#1'].title == 'The page > Cats'
  assert found['web/page.html#1'].text == 'A cat\nsleeps.\n\none\n\ntwo'
  assert found['web/page.html#2'].title == 'The page > Cats > Food'
  assert found['web/page.html#2'].text == 'fish\n\na | b'
  assert found['web/refund_policy.txt'] == types.Document(
    id='web/refund_policy.txt',
    title='refund policy',
    text='We refund.\n\nAll of it.',
  )
  assert found['web/paper.pdf'].text == 'Owls hunt.'
  assert dataset.splits['dev'][0].document_ids == ('web/paper.pdf',)
  skipped, cut = dataset.notes
  assert skipped.startswith('3 files with other endings are skipped: 1 ')
  assert '1 hidden' in skipped and '1 .png' in skipped
  assert cut.startswith('4 documents are cut into 7 passages of at most 120')


def test_whole_files_have_their_headings_in_the_text(folder):
  dataset = formats.load(folder, passage_words=0)
  texts = {d.id: (d.title, d.text) for d in dataset.documents}
  title, text = texts['web/page.html']
  assert title == 'The page'
  assert text == 'Cats\n\nA cat\nsleeps.\n\none\n\ntwo\n\nFood\n\nfish\n\na | b'


def test_a_single_file_and_a_title_from_the_first_heading(tmp_path):
  path = tmp_path / 'x.md'
  path.write_text('# Cats\nSleep.\n\n## Empty\n')
  first, second = formats.load(path).documents
  assert (first.title, first.text) == ('Cats', 'Sleep.')
  assert (second.title, second.text) == ('Cats > Empty', '')
  [whole] = formats.load(path, passage_words=0).documents
  assert (whole.title, whole.text) == ('Cats', 'Sleep.\n\nEmpty')


@pytest.mark.parametrize(
  'name, data, part',
  [
    ('a.txt', b'ok\ncaf\xe9', 'line 2 is not UTF-8 (byte 0xe9)'),
    ('a.md', b'a\0b', 'has a zero byte'),
    ('a.pdf', b'%PDF-1.4 damaged', 'is no readable PDF'),
    ('a.pdf', b'', 'is no readable PDF'),
  ],
)
def test_files_that_are_no_text(tmp_path, name, data, part):
  (tmp_path / name).write_bytes(data)
  (tmp_path / 'good.txt').write_text('Good.')
  with pytest.raises(ValueError, match='on_empty=skip') as caught:
    formats.load(tmp_path)
  assert part in str(caught.value) and name in str(caught.value)
  assert '\n' not in str(caught.value)
  dataset = formats.load(tmp_path, on_empty='skip')
  assert [d.id for d in dataset.documents] == ['good.txt']
  assert dataset.notes[0].startswith(
    f'1 of 2 files cannot be read as text and are skipped: {name}.'
  )


def test_empty_files_are_documents_without_text(tmp_path):
  (tmp_path / 'empty.md').write_text('\n')
  (tmp_path / 'good.txt').write_text('Good.')
  with pytest.raises(ValueError, match="'empty.md' has no text"):
    formats.load(tmp_path)
  dataset = formats.load(tmp_path, on_empty='skip')
  assert dataset.notes == ('1 of 2 documents have no text and are skipped.',)


def test_deeply_nested_html_needs_no_recursion():
  text = '<div>' * 3000 + 'deep' + '</div>' * 3000
  assert markup.html(text, '')[1] == 'deep'

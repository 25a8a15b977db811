"""A session of questions: batches, bad bytes, long lines and closed pipes."""

import io
import json
import os
import pty
import subprocess
import sys
import threading

import pytest

import rag_jax
from rag_jax import answers, ask

DOCUMENTS = ['A cat sleeps.', 'Dogs bark at night.', 'Fish swim in the sea.']
QUESTIONS = [
  'Which animal barks? dogs',
  'Who sleeps? cat',
  'What is in the sea?',
]

NOTHING = {
  'text': '',
  'abstained': True,
  'document': None,
  'span': None,
  'candidates': (),
}


class Echo:
  """Instead of a system: answers with the question, and notes each batch."""

  def __init__(self):
    self.batches = []

  def ask(self, questions):
    self.batches.append(list(questions))
    return [
      answers.Answer(question=text, probability=0.0, **NOTHING)
      for text in questions
    ]


def stream(data):
  """A stream like standard input that holds these bytes."""
  return io.TextIOWrapper(io.BufferedReader(io.BytesIO(data)), encoding='utf-8')


def asked(data):
  """The batches of questions that these bytes give."""
  echo = Echo()
  found = list(ask.replies(echo, ask.typed(stream(data))))
  assert [a.question for a in found] == [q for b in echo.batches for q in b]
  return echo.batches


def test_lines_that_arrive_together_are_one_batch():
  assert asked(b'a\nb\r\n\n \nc') == [['a', 'b'], ['c']]
  many = [f'question {i}' for i in range(150)]
  found = asked('\n'.join(many).encode() + b'\n')
  assert [len(batch) for batch in found] == [64, 64, 22]
  assert [text for batch in found for text in batch] == many


def test_a_line_is_answered_before_the_next_arrives():
  reader, writer = os.pipe()
  with open(reader, encoding='utf-8') as file, open(writer, 'wb', 0) as pipe:
    batches = ask.typed(file)
    for text in (b'one\n', b'two\nthree\n'):
      pipe.write(text)
      assert next(batches) == text.decode().split()
    pipe.write(b'half a l')
    later = threading.Timer(0.2, lambda: pipe.write(b'ine\n'))
    later.start()
    assert next(batches) == ['half a line']
    later.join()


def test_bad_bytes_are_replaced_with_a_note(capsys):
  assert asked(b'\xef\xbb\xbffirst\nca\xff\xfet\nlast \xef\xbf\xbd\n') == [
    ['first', 'ca\ufffd\ufffdt', 'last \ufffd']
  ]
  [line] = capsys.readouterr().err.splitlines()
  assert line == 'note: line 2 is not utf-8; its wrong bytes are replaced.'


@pytest.mark.parametrize('end', [b'\n', b''])
def test_a_very_long_line_is_skipped_with_a_note(capsys, end):
  found = asked(b'a\n' + b'x' * 10**6 + end)
  assert found == [['a']]
  [line] = capsys.readouterr().err.splitlines()
  assert line == 'note: line 2 has more than 100,000 bytes, and is skipped.'
  assert asked(b'x' * 10**6 + b'\nb\n') == [['b']]
  assert asked(b'x' * ask.MAX_BYTES) == [['x' * ask.MAX_BYTES]]


def test_lines_that_show_nothing_are_skipped():
  assert asked('\u200b\n\x00\n\ufeff\na\n'.encode()) == [['a']]


def test_a_terminal_gets_a_prompt_for_every_line(capsys):
  controller, terminal = pty.openpty()
  with open(terminal, encoding='utf-8') as file:
    os.write(controller, b'one\nt\xffwo\n\x04')
    assert list(ask.typed(file)) == [['one\n'], ['t\ufffdwo\n']]
  os.close(controller)
  errors = capsys.readouterr().err
  assert errors.count(ask.PROMPT) == 3
  assert 'line 2 is not utf-8' in errors


def test_a_closed_standard_input_names_the_remedy(monkeypatch):
  monkeypatch.setattr(sys, 'stdin', None)
  with pytest.raises(ValueError, match='got a closed one. Give --question'):
    ask.loop(Echo())


def test_a_stream_that_is_no_file_gives_its_lines():
  assert list(ask.typed(io.StringIO('a\nb\n'))) == [['a\n'], ['b\n']]


def test_what_the_output_cannot_encode_is_escaped(monkeypatch):
  output = io.TextIOWrapper(io.BytesIO(), encoding='ascii')
  monkeypatch.setattr(sys, 'stdout', output)
  system = rag_jax.from_documents(DOCUMENTS)
  ask.loop(system, 'wer bellt? \U0001f415 \udcff', as_json=True)
  output.flush()
  answer = json.loads(output.buffer.getvalue().replace(b'\\U', b'\\\\U'))
  assert answer['question'] == 'wer bellt? \\U0001f415 \udcff'


def test_answers_of_a_batch_are_those_of_one_by_one():
  system = rag_jax.from_documents(DOCUMENTS)
  lines = '\n'.join(QUESTIONS).encode()
  together = list(ask.replies(system, ask.typed(stream(lines + b'\n'))))
  alone = [system.ask([question])[0] for question in QUESTIONS]
  assert [ask.show(a) for a in together] == [ask.show(a) for a in alone]


PROGRAM = """
import rag_jax
from rag_jax import ask, cli
system = rag_jax.from_documents({documents!r})
with cli._one_line_errors():
  ask.loop(system, as_json=True)
"""


def session(**options):
  return subprocess.Popen(
    [sys.executable, '-c', PROGRAM.format(documents=DOCUMENTS)],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    **options,
  )


def test_a_session_goes_on_after_bad_bytes_and_long_lines():
  lines = [b'who \xff barks?', b'x' * 10**6, b'', *map(str.encode, QUESTIONS)]
  with session() as process:
    output, errors = process.communicate(b'\n'.join(lines), timeout=300)
  assert process.returncode == 0, errors
  found = [json.loads(line)['question'] for line in output.splitlines()]
  assert found == ['who \ufffd barks?', *QUESTIONS]
  assert b'Traceback' not in errors
  assert errors.count(b'note: line ') == 2


def test_a_reader_that_goes_away_ends_a_session_quietly():
  with session() as process:
    process.stdin.write(QUESTIONS[0].encode() + b'\n')
    process.stdin.flush()
    assert json.loads(process.stdout.readline())['question'] == QUESTIONS[0]
    process.stdout.close()
    process.stdin.write(QUESTIONS[1].encode() + b'\n')
    process.stdin.close()
    errors = process.stderr.read()
    assert process.wait(300) == 0
  assert b'Traceback' not in errors

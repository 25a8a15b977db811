from rag_jax import cited, types

GOLD = types.Document(
  id='gold', title='Gold', text='In tables it is Au. Gold has 79 protons.'
)
FRANCE = types.Document(
  id='fr', title='France', text="The site ends in .fr, and is Lyon's (old)."
)


def test_sentences_are_dropped_and_numbered_anew():
  text = 'gold is au . [2] france is .fr [1] gold is 79 . [2][1] gold [2] rest'
  found, sources = cited.finish(text, [FRANCE, GOLD])
  assert found == (
    'Gold is Au. [1] France is .fr [2] Gold is 79. [1][2] Gold [1]'
  )
  assert sources == (GOLD, FRANCE)
  wrong = 'gold is 80 . [2] gold is 79 . [1] lead is au . [2] gold is 79 . [2]'
  found, sources = cited.finish(wrong, [FRANCE, GOLD], support=1.0)
  assert found == 'Gold is 79. [1]' and sources == (GOLD,)
  assert cited.finish('lead is pb . [2]', [FRANCE, GOLD], support=1.0) == (
    '',
    (),
  )
  twice = 'gold is au . [2] gold is 79 . [2] gold is au . [1] gold . [2]'
  found, sources = cited.finish(twice, [FRANCE, GOLD], support=1.0)
  assert found == 'Gold is Au. [1] Gold is 79. [1]' and sources == (GOLD,)
  loops = 'the metal is gold . [2] gold is a metal is gold is a metal . [2]'
  found, _ = cited.finish(loops, [FRANCE, GOLD])
  assert found == 'The metal is Gold. [1]'
  assert cited.finish('', [GOLD]) == ('', ())
  assert cited.finish('gold . [3]', [FRANCE, GOLD]) == ('', ())


def test_spelling_is_that_of_the_document():
  for written, spelt in (
    ('the site of france is . fr .', 'The site of France is .fr.'),
    ("it is lyon ' s ( old ) .", "It is Lyon's (old)."),
    ('france , in the end', 'France, in the end'),
    ('an unknown word : yes !', 'An unknown word: yes!'),
  ):
    assert cited.spell(written, FRANCE) == spelt


def test_a_sentence_of_a_document_may_repeat_words_and_has_no_marks():
  source = types.Document(
    id='a', title='', text='One of the one of the two. So it is [7]. A one.'
  )
  text = 'one of the one of the two . [1] so it is [ 7 ] . [1]'
  found, _ = cited.finish(text, [source])
  assert found == 'One of the one of the two. [1] So it is. [1]'
  other = 'two of the two of the one . [1]'
  assert cited.finish(other, [source]) == ('', ())

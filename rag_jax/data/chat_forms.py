"""The forms of prompts that language models were trained on.

`of` recognises the form of a published chat template, without running it;
`template` is the prompt of the causal reader in this form.
"""

from rag_jax.data import prompts

# The best of five open-book and of two closed-book prompts of SmolLM2 on 24
# training questions of Natural Questions with their gold passages.
INSTRUCTION = (
  'You answer with the shortest possible phrase copied from the passage.'
)
TASK = 'Passage: {title}: {passage}\n\nQuestion: {question}?'
CLOSED_BOOK = 'You answer questions in a few words.'
CLOSED_BOOK_TASK = 'Question: {question}?'
ANSWER = 'Answer:'
PLAIN = 'plain'
_CHATML = (
  '<|im_start|>system\nSYSTEM<|im_end|>\n'
  '<|im_start|>user\nUSER<|im_end|>\n<|im_start|>assistant\n'
)
# Form -> prompt up to the answer, and the token that ends an answer ('' = the
# end of a text). Models without a system turn get the instruction in the
# user's.
_FORMS = {
  'chatml': (_CHATML, '<|im_end|>'),  # SmolLM2, Qwen 2
  # Qwen 3, without thinking.
  'qwen3': (_CHATML + '<think>\n\n</think>\n\n', '<|im_end|>'),
  'llama3': (
    '<|start_header_id|>system<|end_header_id|>\n\nSYSTEM<|eot_id|>'
    '<|start_header_id|>user<|end_header_id|>\n\nUSER<|eot_id|>'
    '<|start_header_id|>assistant<|end_header_id|>\n\n',
    '<|eot_id|>',
  ),
  'mistral': ('[INST] SYSTEM\n\nUSER [/INST] ', ''),
  'gemma': (
    '<start_of_turn>user\nSYSTEM\n\nUSER<end_of_turn>\n<start_of_turn>model\n',
    '<end_of_turn>',
  ),
  PLAIN: ('SYSTEM\n\nUSER\n', ''),
}
NAMES = tuple(_FORMS)
DEFAULT = 'chatml'
# What a chat template contains; the first that fits is its form.
_MARKS = (
  (('<|im_start|>', 'enable_thinking'), 'qwen3'),
  (('<|im_start|>',), 'chatml'),
  (('<|start_header_id|>',), 'llama3'),
  (('<start_of_turn>',), 'gemma'),
  (('[INST]',), 'mistral'),
)


def of(chat_template: str) -> str:
  """The form of a chat template; '' if it is none of `NAMES`.

  Args:
    chat_template: in Jinja, as in tokenizer_config.json.

  Example:
    >>> of("{{ '<start_of_turn>user' }}"), of('{{ messages }}')
    ('gemma', '')
  """
  for marks, name in _MARKS:
    if all(mark in chat_template for mark in marks):
      return name
  return ''


def end(name: str) -> str:
  """The token that ends an answer in a form; '' = the end of a text."""
  return _FORMS[name][1]


def template(
  name: str,
  *,
  end: str,
  leading_space: bool = False,
  closed_book: bool = False,
) -> prompts.PromptTemplate:
  """The prompt of the causal reader in a form.

  Args:
    name: one of `NAMES`.
    end: the token that ends an answer.
    leading_space: whether the text begins with a space, as some SentencePiece
      tokenizers assume.
    closed_book: whether to ask without a passage.

  Example:
    >>> print(template('plain', end='</s>').text)
    You answer with the shortest possible phrase copied from the passage.
    <BLANKLINE>
    Passage: {title}: {passage}
    <BLANKLINE>
    Question: {question}?
    Answer:
  """
  text = ' ' * leading_space + _FORMS[name][0] + ANSWER
  system, user = INSTRUCTION, TASK
  if closed_book:
    system, user = CLOSED_BOOK, CLOSED_BOOK_TASK
  text = text.replace('SYSTEM', system).replace('USER', user)
  return prompts.PromptTemplate(text=text, end=end)

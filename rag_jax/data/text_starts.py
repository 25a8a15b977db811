"""What a tokenizer puts before a text: tokens, or a space."""

import json

import tokenizers as hf


def start_tokens(tokenizer: hf.Tokenizer) -> list[int]:
  """The tokens that a model expects before a text; none for many models.

  Example:
    >>> tokenizer = hf.Tokenizer(hf.models.WordLevel({'a': 0, '<s>': 1}))
    >>> start_tokens(tokenizer)
    []
    >>> tokenizer.post_processor = hf.processors.TemplateProcessing(
    ...   single='<s> $A', special_tokens=[('<s>', 1)]
    ... )
    >>> start_tokens(tokenizer)
    [1]
  """
  if not tokenizer.encode('', add_special_tokens=True).ids:
    return []
  whole = tokenizer.encode('a', add_special_tokens=True)
  is_text = [end > begin for begin, end in whole.offsets]
  return whole.ids[: is_text.index(True)] if True in is_text else []


def without_leading_space(tokenizer: hf.Tokenizer) -> tuple[hf.Tokenizer, bool]:
  """A tokenizer that adds no space before a text, and whether it added one.

  A prompt is tokenised in parts, of which only the first may get a space.

  Args:
    tokenizer: the tokenizer of a language model; it is not changed.
  """
  values = json.loads(tokenizer.to_str())
  found = False

  def changed(step):
    nonlocal found
    if not isinstance(step, dict):
      return step
    for name in ('normalizers', 'pretokenizers', 'decoders'):
      if name in step:
        parts = [changed(part) for part in step[name]]
        step[name] = [part for part in parts if part is not None]
    if step.get('type') == 'Prepend':
      found = True
      return None
    if step.get('prepend_scheme', 'never') != 'never':
      found = True
      step['prepend_scheme'] = 'never'
    if step.get('type') == 'ByteLevel' and step.get('add_prefix_space'):
      found = True
      step['add_prefix_space'] = False
    return step

  for name in ('normalizer', 'pre_tokenizer'):
    values[name] = changed(values[name])
  if not found:
    return tokenizer, False
  changed(values['decoder'])
  return hf.Tokenizer.from_str(json.dumps(values)), True

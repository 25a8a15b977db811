"""Sections of our docstrings in the names that the API pages know."""

import re

import griffe


class Sections(griffe.Extension):
  """Reads `Example:` as examples; a bare `Reference:` is a note."""

  def on_instance(self, *, obj, **kwargs):
    """Changes the docstring of each object once it is loaded."""
    del kwargs
    if obj.docstring is not None and not obj.is_alias:
      obj.docstring.value = re.sub(
        r'^Example:$', 'Examples:', obj.docstring.value, flags=re.MULTILINE
      )

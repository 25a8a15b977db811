"""Huge memory pages, to speed up training on the CPU."""

import os
import sys


def use() -> None:
  """Restarts this program with huge pages for memory from malloc.

  This halves the time of training on the CPU, on Linux with glibc. It does
  nothing on other systems or if GLIBC_TUNABLES is already set.
  """
  if sys.platform == 'linux' and 'GLIBC_TUNABLES' not in os.environ:
    os.environ['GLIBC_TUNABLES'] = 'glibc.malloc.hugetlb=1'
    os.execv(sys.executable, sys.orig_argv)

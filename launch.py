"""Runs an experiment: python launch.py [--config=experiments/x.py] [flags].

Without flags it trains the quickstart on the embedded facts. Any field of the
experiment is a flag: --config.search.beam_size=8. The installed command
`rag-jax` is the same program; `--help` lists all there is.
"""

from rag_jax import cli

if __name__ == '__main__':
  cli.main()

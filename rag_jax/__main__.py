"""`python -m rag_jax`: the command line."""

from rag_jax import cli

cli.main()

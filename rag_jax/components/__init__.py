"""Query encoder, ID decoder and ranker: `init` and `apply` on plain pytrees."""

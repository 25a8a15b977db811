"""The four components, each `init` and `apply` on plain pytrees."""

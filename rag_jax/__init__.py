"""Generative indexes and differentiable search for RAG, as pure functions.

The rooms, from what runs down to what computes: `train`, `evaluate`, `ask`;
`config`, `report`; `rag`, the end-to-end functions; `components`; `index`;
`data`; `nn`; `ops`, which needs nothing of the others.
"""

__version__ = '0.1.0'

"""Environment variables of a process that hosts a partition. They are set before it imports torch."""

EXCHANGE_DTYPE = "UNLEARNREC_EXCHANGE_DTYPE"
"""Tells a worker how rows of embeddings travel: "float32" or "bfloat16"."""
HUGE_PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}
"""Makes torch ask Linux for huge pages. A sum over neighbours reads rows all over a table, which is faster with fewer pages;
and fresh memory is had sooner."""

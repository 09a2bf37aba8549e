"""Distributed training of graph recommenders that can forget on request.

The command line (`unlearnrec --help`) is the usual way in. From Python: the four folders `unlearnrec.partitioning`
(data at rest), `unlearnrec.distributed` (the mathematics as SPMD torch), `unlearnrec.workers` (Ray actors) and
`unlearnrec.cluster` (configuration, versions, commands). Importing this module alone imports none of them.
"""

__version__ = "0.1.0"

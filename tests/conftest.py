"""Fixtures that several files share."""

import os

# `make test` runs two processes, and tests start more. With a thread for each core in each of them they wait for one
# another. It has to be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from ray_fixture import group, ray_session  # noqa: F401
from s3 import s3_server  # noqa: F401

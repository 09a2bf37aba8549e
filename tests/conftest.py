"""Fixtures that several files share."""

from ray_fixture import group, ray_session  # noqa: F401
from s3 import s3_server  # noqa: F401

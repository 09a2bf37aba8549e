"""The reference of the site, made from the code each time the site is built, so that it cannot be of another version."""

from __future__ import annotations

import json
import re

from unlearnrec.docs.tools.reference_commands import commands_page
from unlearnrec.docs.tools.reference_config import configuration_page
from unlearnrec.docs.tools.reference_http import http_page, openapi
from unlearnrec.docs.tools.reference_python import python_page


def reference_files() -> dict[str, str]:
    """Place in the site -> content, of the pages and of the OpenAPI document."""
    described = openapi()
    return {
        "reference/commands.md": commands_page(),
        "reference/configuration.md": _linked(configuration_page()),
        "reference/python.md": _linked(python_page()),
        "reference/http.md": http_page(described),
        "reference/openapi.json": json.dumps(described, indent=1),
    }


def _linked(text: str) -> str:
    """Docstrings name documents as they lie in the repository."""
    return re.sub(r"\bdocs/([a-z]+)\.md\b", r"[docs/\1.md](../\1.md)", text)

"""Pages as single HTML files: one head, one style to build on, and a policy under which nothing is ever fetched."""

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

TEMPLATE = Path(__file__).parent / "template"


def environment(script: str = "") -> Environment:
    """For the templates that extend base.html; `script` is the only one that the page may run.

    Names and texts are escaped wherever they stand. The page's other files lie beside it.
    """
    made = Environment(
        loader=FileSystemLoader(TEMPLATE), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    made.filters["grouped"] = lambda number: f"{number:,}"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    made.globals |= {
        "script": Markup(script),  # noqa: S704 - the project's own file
        "script_source": Markup(f"'sha256-{digest}'" if script else "'none'"),  # noqa: S704 - base64
    }
    return made

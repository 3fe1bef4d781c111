"""How is a page written? From templates, needing no network."""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from data_pipeline.output import write_text
from trainer.pictures.charts import library
from trainer.pictures.timeline import clock


def write_page(template: str, path: Path, **values: Any) -> Path:
    """Fill `templates/<template>`; the page appears at `path` complete or not at all."""
    write_text(path, fill(template, **values))
    return path


def fill(template: str, **values: Any) -> str:
    """The text of `templates/<template>` with the values in their places."""
    return _environment().get_template(template).render(**values)


def chart_scripts() -> tuple[str, str]:
    """What draws the charts of a page: the library, and what our pages make of it."""
    return library(), fill("charts.js")


def policy(scripts: Sequence[str]) -> str:
    """The Content-Security-Policy of a page of one file: these scripts run, nothing is loaded."""
    hashes = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts)
    allowed = " ".join(f"'sha256-{each}'" for each in hashes) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trainer.pictures"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals |= {
        "chart_scripts": chart_scripts,
        "policy_of": policy,
        "script": lambda name: environment.get_template(name).render(),
    }
    environment.filters["clock"] = clock
    environment.filters["signed"] = signed
    environment.filters["quantity"] = quantity
    return environment


def signed(value: float, digits: int = 2, plus: bool = False) -> str:
    """A number with a typographic minus, and a plus if asked."""
    return f"{value:{'+' if plus else ''}.{digits}f}".replace("-", "\N{MINUS SIGN}")


def quantity(value: float) -> str:
    """1107234 -> '1,107,234', 3.14159 -> '3.14': as many digits as one reads."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"

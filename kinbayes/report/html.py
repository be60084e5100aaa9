"""Pages of figures, tables and words: one file each, which needs nothing beside it."""

import base64
import html
import io
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; font-size: 13px; margin: .8rem 0; display: block; overflow-x: auto; }
th, td { padding: .15rem .6rem; text-align: right; border-bottom: 1px solid #eee; white-space: nowrap; }
img { max-width: 100%; } p { max-width: 46rem; }
"""


class Section(NamedTuple):
    """Hold a part of a page; what is missing is left out."""

    heading: str
    text: str = ""
    figures: Sequence[Figure] = ()
    tables: Sequence[pd.DataFrame] = ()


def page(title: str, sections: Sequence[Section]) -> str:
    """Return a page as HTML; every word in it is escaped, and figures are inside."""
    heading = html.escape(title)
    body = "\n".join(_section(section) for section in sections)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{heading}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>{heading}</h1>\n{body}\n</body></html>\n"
    )


def _section(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.heading)}</h2>"]
    parts += [f"<p>{html.escape(text)}</p>" for text in section.text.split("\n\n") if text]
    parts += [_image(figure, section.heading) for figure in section.figures]
    parts += [table.to_html(escape=True, border=0, float_format=lambda v: f"{v:.4g}") for table in section.tables]
    return "\n".join(parts)


def _image(figure: Figure, alt: str) -> str:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}">'

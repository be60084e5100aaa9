"""Pages: whole in one file, and nothing in them is markup but what is meant."""

import base64
import re

import pandas as pd
from matplotlib.figure import Figure

from kinbayes.report.html import Section, page

EVIL = "<script>alert('x')</script>&"


def test_every_word_is_escaped():
    table = pd.DataFrame({EVIL: [EVIL]}, index=[EVIL])
    text = page(EVIL, [Section(EVIL, f"{EVIL}\n\n{EVIL}", [Figure()], [table])])
    assert "<script" not in text
    assert text.count("&lt;script&gt;") == 9  # title, heading, the section's, two paragraphs, the image's, table


def test_figures_are_inside():
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1])
    (image,) = re.findall(r'src="data:image/png;base64,([^"]+)"', page("a", [Section("b", figures=[figure])]))
    assert base64.b64decode(image).startswith(b"\x89PNG")
    assert "src=" not in page("a", [Section("b", "c")])


def test_numbers_have_four_digits():
    assert "0.3333" in page("a", [Section("b", tables=[pd.DataFrame({"x": [1 / 3]})])])

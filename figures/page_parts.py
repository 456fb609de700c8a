"""The parts of a page: tables, charts, lists. What comes from a file goes through escape()."""

from html import escape

import numpy as np

from cli.tables import numeral

DIGITS = {"SSIM": 3, "LPIPS": 3, "parameters": 0, "epochs": 0, "epoch": 0, "seconds": 0, "seed": 0}  # else 2


def swatch(run):
    """The colour and the dashes of a run, by its index; nothing for None."""
    return "" if run is None else f'<span class="swatch s{run % 7} d{run // 7 % 3}"></span>'


def table(caption, rows):
    """A table that its headings sort. rows: index of a run or None, and {heading: text, number or None}.

    The first heading has a text in every row. One that has None in every row is left out.
    """
    first, *others = [heading for heading in dict.fromkeys(heading for _, cells in rows for heading in cells)
                      if any(cells.get(heading) is not None for _, cells in rows)]
    head = "".join(f'<th scope="col"><button type="button">{escape(heading)}</button></th>'
                   for heading in (first, *others))
    body = "".join(f'<tr><th scope="row">{swatch(run)}{escape(cells[first])}</th>'
                   f'{"".join(cell(heading, cells.get(heading)) for heading in others)}</tr>' for run, cells in rows)
    return (f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table class="sortable">'
            f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>")


def cell(heading, value):
    """A cell of a table, with the number that it is sorted by, if it is one."""
    if value is None:
        return "<td></td>"
    try:
        value_attribute = f' data-value="{float(value):.9g}"'
    except ValueError:  # a flag that is a word
        value_attribute = ""
    text = value if isinstance(value, str) else numeral(value, DIGITS.get(heading.split()[-1], 2))
    return f"<td{value_attribute}>{escape(text)}</td>"


def definitions(facts):
    """A list of names and values, both as text."""
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    return f"<dl>{items}</dl>"


def curve(run, **columns):
    """A curve of a run, by its index, to five digits: the points at which all columns, x and y first, are finite."""
    values = np.array([*columns.values()], float)
    values = values[:, np.isfinite(values).all(axis=0)]
    return {"run": run, **{name: [float(f"{value:.5g}") for value in row] for name, row in zip(columns, values)}}


def chart_html(name, chart):
    """The place of a chart, which page.js draws. name: its key in the data of the page."""
    title = escape(chart["title"])
    return (f'<figure class="chart" data-chart="{name}"><figcaption>{title}</figcaption><div class="readout"></div>'
            f'<div class="plot" tabindex="0" role="slider" aria-label="{title}" aria-valuenow="0"></div></figure>')

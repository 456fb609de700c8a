"""Tables as text. A table is a list of rows, dicts with the same keys in the same order."""


def numeral(value, digits=2):
    """The text of a number, with thousands separated; "-" for None."""
    return "-" if value is None else f"{value:,.{digits}f}"


def text_table(rows):
    """Align the cells (text) in columns, the first one to the left."""
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(cell.rjust(width) if place else cell.ljust(width)
                               for place, (cell, width) in enumerate(zip(line, widths))) for line in lines)


def markdown_table(rows):
    """The same as a Markdown table."""
    rule = ["---", *["---:"] * (len(rows[0]) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (rows[0], rule, *(row.values() for row in rows)))

"""Read CSV files as spreadsheets and shells save them."""

import codecs

SEPARATORS = ";\t,"  # spreadsheets of some countries write semicolons


def open_text(path, errors="strict"):
    """Open a text file in UTF-8, or in UTF-16 if it begins with that byte order mark, as PowerShell writes it."""
    with open(path, "rb") as file:
        utf_16 = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return open(path, encoding="utf-16" if utf_16 else "utf-8-sig", errors=errors)


def separator_of(text):
    """Return the most frequent separator in some lines; of two as frequent not the comma, which is then decimal."""
    return max(SEPARATORS, key=text.count)

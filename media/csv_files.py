"""Read CSV files as spreadsheets and shells save them."""

from cli.files import encoding_of

SEPARATORS = ";\t,"  # spreadsheets of some countries write semicolons


def open_text(path, errors="strict"):
    """Open a text file in UTF-8, or in UTF-16 if it begins with that byte order mark, as PowerShell writes it."""
    with open(path, "rb") as file:
        encoding = encoding_of(file.read(2))
    return open(path, encoding=encoding, errors=errors)


def whole_text(path):
    """Read a text file whole; see open_text."""
    with open_text(path) as file:
        return file.read()


def separator_of(line):
    """Return the separator in a line: a semicolon or a tab if it has one, for then a comma is decimal."""
    return next((separator for separator in SEPARATORS if separator in line), ",")

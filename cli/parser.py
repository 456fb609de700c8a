"""The argument parser of every script, and the types of its flags."""

import argparse
import difflib
import os
import re
import shlex
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from .errors import UsageError
from .files import encoding_of

# Finds the flag or the word that a message of argparse is about
OF_WHAT = re.compile(r"argument (\S+):|unrecognized arguments: (\S+?)(?:;? |$)")
COMMENT = re.compile(r"""(?P<quoted>"[^"]*"|'[^']*')|(?<!\S)#.*""")
OF_WINDOWS_SHELLS = set("@&$;%,(){}<>|^'`")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Show the default of each flag that has one."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, []) else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An argument parser that takes `@recipe.txt` files and reports a mistake in one line.

    A recipe holds flags as one types them, any number on a line; a word that begins with `#` starts a comment.
    """

    def __init__(self, description, recipes=True):
        super().__init__(description=description, allow_abbrev=False, formatter_class=HelpFormatter)
        self.recipes = recipes
        self.words_of_recipes = {}  # of those that have been read, by the word @FILE
        self.typed_words = []

    def parse_args(self, args=None, namespace=None):
        args, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._meant(unknown[0])}")
        return args

    def _meant(self, word):
        """What an unknown word may have been meant for, as the end of a message."""
        if self.recipes and word.endswith(".txt") and os.path.isfile(word):
            return f"; a file of flags is given as @{word}"
        options = {option.lstrip("-").replace("-", "_"): option for option in self._option_string_actions}
        name = re.split("[=:]", word.lstrip("-"))[0].replace("-", "_")
        near = difflib.get_close_matches(name, options, 1) if word.startswith("--") or "=" in word else []
        return f"; did you mean {options[near[0]]}?" if near else ""

    def parse_known_args(self, args=None, namespace=None):
        words = self.typed_words = sys.argv[1:] if args is None else args
        return super().parse_known_args(self._with_recipes(words) if self.recipes else words, namespace)

    def _with_recipes(self, words, within=()):
        """Put the words of a recipe in the place of @FILE, its name; a recipe may name others.

        argparse could do so itself; before Python 3.12 it reads files in the code page of Windows.
        within: the recipes that these words are in.
        """
        replaced = []
        for word in words:
            if not word.startswith("@"):
                replaced.append(word)
                continue
            if word in within:
                self.error(f"{within[-1]} has the word {word}, which leads back to it; remove that word")
            if word not in self.words_of_recipes:
                self.words_of_recipes[word] = self._read_recipe(word)
            replaced += self._with_recipes(self.words_of_recipes[word], (*within, word))
        return replaced

    def _read_recipe(self, word):
        """Read the words in the recipe that a word @FILE names."""
        path = Path(os.path.expanduser(word[1:]))
        missing = f"{word}: there is no such file of flags; those of this program are in recipes/"
        try:
            if path.is_dir():
                self.error(missing)
            if path.exists() and not path.is_file():
                self.error(f"{word} is no file, but say a pipe, which can be read only once; write its flags into a "
                           "file")
            content = path.read_bytes()
            lines = content.decode(encoding_of(content)).splitlines()
        except UnicodeError:
            self.error(f"{word} is not text in UTF-8; give a file of flags, or save it in UTF-8")
        except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: what cannot be a file's name
            self.error(missing)
        except OSError as error:
            self.error(f"{word} cannot be read ({error.strerror or error}); give another file of flags")
        words = []
        for line in lines:
            try:
                words += words_of_line(line)
            except ValueError as error:
                self.error(f"{word} has the line {line!r} ({error}); correct it")
        return words

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {self._recipe_of(message)}{message} (see --help)\n")

    def _recipe_of(self, message):
        """The only recipe with the flag or word that a message of argparse is about, as the start of the message."""
        about = OF_WHAT.match(message)
        names = (about[1] or about[2]).split("/") if about else []  # --flag/--no-flag has both
        recipes = [recipe for recipe, words in {**self.words_of_recipes, "": self.typed_words}.items()
                   if any(word.split("=")[0] in names or word in names for word in words)]
        return f"{recipes[0]}: " if len(recipes) == 1 and recipes[0] else ""  # of several any may have it

    def list_only(self, texts):
        """Let --help list only these flags, {name: its help text, or "" to leave it}; the others are still taken."""
        for action in self._actions:
            if action.dest not in (*texts, "help"):
                action.help = argparse.SUPPRESS
            elif texts.get(action.dest):
                action.help = texts[action.dest]

    def typed_flags(self, words=None):
        """The flags that the command line itself gives, as a dict without any defaults."""
        defaults = [action.default for action in self._actions]
        for action in self._actions:  # not set_defaults(): its values enter the namespace too
            action.default = argparse.SUPPRESS
        try:
            return vars(self.parse_args(words))
        finally:
            for action, default in zip(self._actions, defaults):
                action.default = default

    def check_saved(self, flags, path, names=None):
        """Raise UsageError unless this parser could have produced `flags`, the flags in a checkpoint.

        names: check only these, say because no others are used.
        """
        if not isinstance(flags, dict):
            raise UsageError(f"{path} holds no flags where its flags should be; give another checkpoint")
        checked = flags.keys() if names is None else flags.keys() & {*names}
        for action in self._actions:
            if action.dest in checked and not _could_give(action, flags[action.dest]):
                raise UsageError(f"{path} has {ascii(flags[action.dest]):.60} for --{action.dest}; "
                                 "give another checkpoint")


def _could_give(action, value):
    if value is None or isinstance(action.default, bool):
        return type(value) is type(action.default)
    if action.nargs == "*":
        return isinstance(value, list) and all(_parses_to(action.type, item) for item in value)
    if action.choices is not None:
        return isinstance(value, str) and value in action.choices
    return isinstance(value, str) if action.type in (None, path_name) else _parses_to(action.type, value)


def _parses_to(kind, value):
    try:
        parsed = kind(str(value))
    except argparse.ArgumentTypeError:
        return False
    return type(parsed) is type(value) and parsed == value


def _number(kind, accepts, wanted):
    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not accepts(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
        return value

    return parse


def path_name(text):
    """The type of a flag that names a file or a folder: `~` is the user's home, and an empty name is refused."""
    if not text.strip():
        raise argparse.ArgumentTypeError("an empty name; give a file or folder, or leave the flag out")
    return os.path.expanduser(text)


def at_least(least):
    return _number(int, lambda value: value >= least, f"a whole number of {least} or more")


def multiple_of(step, least):
    """The type of a flag that takes multiples of `step` from `least`, itself one; its error names the nearest."""
    def parse(text):
        value = at_least(least)(text)
        if value % step:
            below = value - value % step
            raise argparse.ArgumentTypeError(f"{text!r} is not a multiple of {step}; give {below} or {below + step}")
        return value

    return parse


positive_int = _number(int, lambda value: value > 0, "a whole number above 0")
natural_int = _number(int, lambda value: value >= 0, "a whole number of 0 or more")
positive_float = _number(float, lambda value: 0 < value < float("inf"), "a number above 0")
natural_float = _number(float, lambda value: 0 <= value < float("inf"), "a number of 0 or more")
fraction = _number(float, lambda value: 0 < value <= 1, "a number above 0 and at most 1")
seed_number = _number(int, lambda value: 0 <= value < 2**62, "a whole number of 0 or more, below 2^62")
probability = _number(float, lambda value: 0 <= value <= 1, "a number from 0 to 1")


def as_typed(*words):
    """Join words to a command line, as one would type it: quoted where need be."""
    if _has_windows_shell():
        return " ".join(_quoted_on_windows(str(word)) for word in words)
    return shlex.join(map(str, words))


def _has_windows_shell():
    return os.name == "nt" and "MSYSTEM" not in os.environ  # Git Bash sets it; there a bare backslash quotes


def _quoted_on_windows(word):
    """Quote a word as programs expect it, and also where it means something to PowerShell or to cmd.

    What they expand within quotes too ($ and ` by PowerShell, %name% by cmd) is left: no quoting suits both.
    """
    quoted = subprocess.list2cmdline([word])
    if OF_WINDOWS_SHELLS.isdisjoint(quoted) or quoted.startswith('"'):
        return quoted
    backslashes = quoted[len(quoted.rstrip("\\")):]  # before a quote they count double
    return f'"{quoted}{backslashes}"'


def interpreter():
    """The Python that runs this program, as one would type it here: an environment need not be activated."""
    if sys.platform == "linux" and sys.orig_argv:
        return sys.orig_argv[0]  # elsewhere this may be the Python that the environment was made with
    executable = Path(sys.executable)
    with suppress(ValueError):
        executable = executable.relative_to(Path.cwd())
    if _has_windows_shell() and _quoted_on_windows(str(executable)) != str(executable):
        return "python"  # PowerShell takes a quoted word for a text, not for a program
    return str(executable)


def launcher(processes):
    """The words that start a script in one process or several, as one would type them here."""
    several = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes) if processes > 1 else ()
    return interpreter(), *several


def script_command(script, *words, processes=1):
    """The command line that runs a script of this program, as one would type it here."""
    beside = Path(sys.argv[0]).parent / script  # in a notebook's process argv[0] is another program
    return as_typed(*launcher(processes), beside if beside.is_file() else script, *words)


def typed_command(processes=1):
    """The command line that started this program, in one process or several, as one would type it again."""
    return as_typed(*launcher(processes), *sys.argv)


def words_of_line(line):
    """The words on a line of a recipe, but for a comment; raises ValueError where a quote is missing."""
    return words_of(COMMENT.sub(lambda match: match["quoted"] or "", line))


def words_of(text):
    """Split flags into words. A word with spaces is quoted; a backslash is an ordinary character, as in C:\\data."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.escape, lexer.commenters = True, "", ""
    return list(lexer)


def split_words(text, name):
    """The words of a quoted command line; UsageError beginning with `name` where a quote is missing."""
    try:
        return words_of(text)
    except ValueError as error:
        raise UsageError(f"{name}: {error}; give flags as you would type them") from None

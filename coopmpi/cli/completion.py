"""What a shell proposes after `coopmpi`: click knows verbs and options, here are keys, their values, files and names of parts.

Words that something is to follow end with one of OPEN: no space comes after them.
"""

import os
import re
import shlex

import click
from click.shell_completion import BashComplete, CompletionItem, ZshComplete, add_completion_class

OPEN = "=./"


def complete_by_metavar(command: click.Command) -> None:
    """Let the parameters of a verb be completed as their metavar says: RUN.toml and W.npy|W.h5 by such files, TABLE.KEY=VALUE by keys."""
    for parameter in command.params:
        metavar = parameter.metavar or ""
        if metavar == "TABLE.KEY=VALUE":
            parameter.type = Override()
        elif suffixes := re.findall(r"\.[a-z]\w*", metavar):
            parameter.type = Files(*suffixes)
        elif metavar == "FILE":
            parameter.type = Files("")


def names_of(kind):
    """A completer of the names of a kind's parts."""
    def complete(context, parameter, incomplete):
        from coopmpi import registry

        return _starting(registry.parts(kind), incomplete)

    return complete


class Files(click.ParamType):
    """Files with these suffixes, and folders on the way to them."""

    name = "file"

    def __init__(self, *suffixes):
        self.suffixes = suffixes

    def shell_complete(self, context, parameter, incomplete):
        return [CompletionItem(path) for path in _paths(incomplete, self.suffixes)]


class Override(click.ParamType):
    """A table, then a key of it, then what the key may be."""

    name = "override"

    def shell_complete(self, context, parameter, incomplete):
        from coopmpi import vocabulary

        word, equals, value = incomplete.partition("=")
        table, dot, key = word.rpartition(".")
        keys = vocabulary.keys(table)
        if equals:
            return [CompletionItem(f"{word}={fitting}") for fitting in dict.fromkeys(_values(keys.get(key, ()), value))]
        tables = [f"{name}." for name in vocabulary.TABLES if not dot]
        return _starting([*tables, *(f"{table}{dot}{name}=" for name in keys)], incomplete)


def _values(types, start):
    """What a key of these types may be, that starts so."""
    from coopmpi.ranges import OUTPUT, literals, names_beside_files

    for kind in types:
        yield from (word for word in literals(kind) or ("true", "false") * (kind is bool) if word.startswith(start))
        beside = names_beside_files(kind)
        if beside is not None:
            yield from (word for word in (beside() if beside is not OUTPUT else ()) if word.startswith(start))
            yield from _paths(start, ("",))


def _starting(words, start):
    return [CompletionItem(word) for word in words if word.startswith(start)]


def _paths(start, suffixes):
    """Folders, and files with one of the suffixes, of which the names start so and need no quotes."""
    folder, name = os.path.split(start)
    try:
        entries = sorted(os.scandir(os.path.expanduser(folder) or "."), key=lambda entry: entry.name)
    except OSError:
        return  # there is no such folder
    for entry in entries:
        hidden = entry.name.startswith(".") and not name
        if entry.name.startswith(name) and not hidden and shlex.quote(entry.name) == entry.name:
            path = os.path.join(folder, entry.name)
            if entry.is_dir():
                yield f"{path}/"
            elif entry.name.endswith(suffixes):
                yield path


@add_completion_class
class Bash(BashComplete):
    """Bash takes "a=b" for three words, and replaces the last one alone."""

    source_template = BashComplete.source_template.replace("\n    return 0\n", f"""
    if [[ ${{#COMPREPLY[@]}} == 1 && ${{COMPREPLY[0]}} == *[{OPEN}] ]]; then
        compopt -o nospace
    fi

    return 0
""")
    cut = False  # is what comes before "=" left out of what is proposed?

    def get_completion_args(self):
        arguments, last = super().get_completion_args()
        words = []
        for word in [*arguments, last]:
            if words and (word == "=" or words[-1].endswith("=")):
                words[-1] += word
            else:
                words.append(word)
        *arguments, whole = words
        self.cut = whole != last and "=" in (whole.partition("=")[2] if whole.startswith("-") else whole)
        return arguments, whole

    def format_completion(self, item):
        return super().format_completion(CompletionItem(item.value.partition("=")[2], item.type) if self.cut else item)


@add_completion_class
class Zsh(ZshComplete):
    source_template = ZshComplete.source_template.replace("        compadd -U -V unsorted -a completions\n", f"""\
        compadd -U -V unsorted -S "" -- ${{(M)completions:#*[{OPEN}]}}
        compadd -U -V unsorted -- ${{completions:#*[{OPEN}]}}
""")

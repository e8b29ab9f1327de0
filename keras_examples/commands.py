"""Commands that know what was meant: mistyped, or given to another one. Their help shows options in groups."""

import contextlib
import difflib
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from keras_examples.calls import call, program
from keras_examples.examples import EXAMPLES
from keras_examples.ranges import COUNT

# What takes a file of a kind that was typed without an option; anything else may be a prompt.
TAKEN_BY: dict[str, tuple[str, ...]] = dict.fromkeys((".h5", ".keras", ".safetensors"), ("--weights", "--load"))
TAKEN_BY |= dict.fromkeys((".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp"), ("--image",))
TAKEN_BY |= {".txt": ("--text",), ".toml": ("--config",), ".onnx": ()}


class Named(click.Command):
    """A command whose help calls the program as it was called."""

    def get_help(self, ctx: click.Context) -> str:
        return super().get_help(ctx).replace("python cli.py", program())


class Command(Named):
    """A command that, given an option or a word that it does not take, says where that belongs.

    Its help shows the options in the groups that `options` puts them in.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.allow_extra_args = True
        with meant_options(ctx, args):
            extra = super().parse_args(ctx, args)
        if not extra or ctx.resilient_parsing:
            return extra
        word, group = extra[0], ctx.parent and ctx.parent.command
        hint = f"Options of {self.name}: {', '.join(flag for flag in flags_of(self) if flag[0] == '-')}."
        if isinstance(group, click.Group) and word in group.commands:
            hint = f"A command comes before its options: {ctx.parent.command_path} {word} …"  # type: ignore[union-attr]
        elif given := takes(self, word):
            hint = f"Did you mean {given}?"
        elif isinstance(group, DefaultCommands) and (line := group.meant_line(word)):
            hint = f"Did you mean `{ctx.parent.command_path} {line}`?"  # type: ignore[union-attr]
        raise click.UsageError(f"Unexpected argument {word!r}. {hint}", ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        params = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        for param in sorted(params, key=lambda param: not getattr(param, "group", None)):  # those in none come last
            if record := param.get_help_record(ctx):
                flags = re.sub("(INTEGER|FLOAT)( RANGE)?", "N", record[0])
                help = record[1].replace(str(COUNT), "x>=1")  # nobody comes near its end
                groups.setdefault(getattr(param, "group", None) or "Options", []).append((flags, help))
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)


class Commands(Named, click.Group):
    """Commands in the order of use, which is that of their definition."""

    command_class = Command
    group_class = type  # groups in it are of its class

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with meant_options(ctx, args):
            return super().parse_args(ctx, args)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args[0] not in self.commands and not ctx.resilient_parsing and (line := self.meant_line(args[0])):
            raise click.UsageError(f"No such command {args[0]!r}. Did you mean `{ctx.command_path} {line}`?", ctx)
        return super().resolve_command(ctx, args)

    def meant_line(self, word: str) -> str:
        """What to type after the name of this group instead of a word that is no command, or ''."""
        if word == "help":
            return "--help"
        if word in EXAMPLES:
            return call(word).removeprefix(f"{program()} ")
        for name, command in self.commands.items():
            if word in getattr(command, "commands", ()):
                return f"{name} {word}"
        close = difflib.get_close_matches(word, self.commands)
        for name, command in self.commands.items():
            if (given := takes(default_of(command), word)) and not (close and given.startswith("--prompt")):
                return f"{name} {given}"
        return ""


class DefaultCommands(Commands):
    """Commands of which one, `default`, is meant where none is named."""

    default = "fit"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args[0].startswith("-") and args[0] not in ctx.help_option_names if args else not ctx.resilient_parsing:
            args = [self.default, *args]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["[COMMAND]", "[OPTIONS]"]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_commands(ctx, formatter)
        formatter.write(f"\nWithout a command it is {self.default}, which has these options:\n")
        self.commands[self.default].format_options(self._default_context(ctx), formatter)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        if not incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return self.commands[self.default].shell_complete(self._default_context(ctx), incomplete)

    def _default_context(self, ctx: click.Context) -> click.Context:
        return click.Context(self.commands[self.default], ctx)


def default_of(command: click.Command) -> click.Command:
    return command.commands[command.default] if isinstance(command, DefaultCommands) else command


def flags_of(command: click.Command) -> list[str]:
    return [flag for param in command.params for flag in (*param.opts, *param.secondary_opts)]


def takes(command: click.Command, word: str) -> str:
    """How a command takes what was typed as a bare word, such as `--weights cnn.keras`; '' if it does not."""
    wanted = TAKEN_BY.get(Path(word).suffix.lower(), ("--prompt",))
    for param in command.params:
        if isinstance(param.type, click.Choice) and word.lower() in param.type.choices:
            return f"{param.opts[0]} {word}" if isinstance(param, click.Option) else word
        if param.opts[0] in wanted:
            return f"{param.opts[0]} {shlex.quote(word)}"
    return ""


@contextlib.contextmanager
def meant_options(ctx: click.Context, args: list[str]) -> Iterator[None]:
    """Has the error about an option that a command has not say which was meant, or which commands have it."""
    typed = [*args]  # Click empties the list
    try:
        yield
    except click.NoSuchOption as error:
        group = ctx.command if isinstance(ctx.command, click.Group) or not ctx.parent else ctx.parent.command
        homes: dict[str, list[str]] = {}
        for name, command in (("", ctx.command), *getattr(group, "commands", {}).items()):
            for flag in flags_of(default_of(command)):
                homes.setdefault(flag, []).append(name)
        word = next((arg for arg in typed if arg.startswith(error.option_name)), error.option_name).split("=")[0]
        word = f"--{word.lstrip('-')}"  # also for -epochs
        begun = sorted((flag for flag in homes if flag.startswith(word)), key=lambda flag: homes[flag][0])
        meant = (
            [flag for flag in begun if "" in homes[flag]] or begun[:1] or difflib.get_close_matches(word, homes, 1, 0.7)
        )
        if word in homes:
            meant = [word]
        hint = ""
        if meant and "" in homes[meant[0]]:
            hint = f" Did you mean {listed(map(repr, meant), 'or')}?"
        elif meant:
            hint = f" {meant[0]} is an option of {listed(homes[meant[0]], 'and')}."
        raise click.UsageError(f"No such option {error.option_name!r}.{hint}", ctx) from None


def listed(words: Iterable[str], last: str) -> str:
    """Words with commas between them, and `last` before the last."""
    *others, word = words
    return f"{', '.join(others)} {last} {word}" if others else word

"""The command line: ``convatlas VERB [overrides]`` runs ``pipelines/VERB.py``; ``data verify`` is ``data_verify.py``.

Results go to standard output; progress, logs and errors go to standard error.
"""

import ast
import errno
import io
import locale
import os
import runpy
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

from omegaconf import DictConfig

from convatlas.config.composition import check_config, project_path
from convatlas.config.composition import compose as compose_config
from convatlas.errors import ReportedError, UserError
from convatlas.utils.clock import STARTUP
from convatlas.utils.distributed import is_rank_zero, ranks
from convatlas.utils.files import FULL, dumps, printable
from convatlas.utils.signals import end_after_work, ignore_stop_signals

Pipeline = Callable[..., dict[str, Any]]
HELP = ("-h", "--help")


def main() -> int:
    """Run one verb; the entry point of the ``convatlas`` command."""
    use_utf8()
    verbs = {path.stem.replace("_", " "): path for path in sorted(project_path("pipelines").glob("*.py"))}
    arguments = sys.argv[1:]
    group = "".join(f"{word} " for word in arguments if word not in HELP)  # all verbs, or those of `convatlas data`
    members = {verb: path for verb, path in verbs.items() if verb.startswith(group)}
    if members or arguments[0] in HELP:
        _usage(members or verbs)
        return 0
    words = 2 if " ".join(arguments[:2]) in verbs else 1
    verb, overrides = " ".join(arguments[:words]), arguments[words:]
    if verb not in verbs:
        sys.stderr.write(f"convatlas: error: no verb '{verb}': one of {', '.join(verbs)}\n")
        return 2
    if any(argument in HELP for argument in overrides):
        _help(verbs[verb])
        return 0
    sys.argv = [str(verbs[verb]), *overrides]
    runpy.run_path(str(verbs[verb]), run_name="__main__")
    return 0


def use_utf8() -> None:
    """Read and write every name and text as UTF-8, whatever the locale: the process starts again where it must.

    Class names, paths and captions then have the same bytes on every machine, and characters that cannot be printed
    are printed as escapes.
    """
    if not sys.flags.utf8_mode and locale.getencoding().lower() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"  # which the processes that this one starts inherit
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  the same command
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def execute(
    pipeline: Pipeline,
    show: Callable[[Mapping[str, Any]], None],
    types: Mapping[str, Any],
    compose: Callable[[str, Sequence[str]], DictConfig] = compose_config,
    status: Callable[[Mapping[str, Any]], int] = lambda result: 0,
    several_ranks: bool = False,
) -> NoReturn:
    """Compose the configuration, run a pipeline, print its result and exit.

    The exit status is 0, or what ``status`` makes of the result; 2 for a mistake that the user can mend; 75 for a run
    that a signal stopped and the same command goes on with; 1 for anything else, a lost rank included.

    Args:
        pipeline: A function of the composed configuration; its name is that of ``conf/<name>.yaml``.
        show: Prints the result for a person.
        types: Types of keys that belong to no constructor, by dotted name.
        compose: Makes the configuration from the pipeline's name and the overrides.
        status: The exit status of a result, for a verb whose results can be bad news.
        several_ranks: Whether the verb is the work of all processes that a launcher has started; those of another verb
            would all do the same, and write to the same files.
    """
    use_utf8()
    STARTUP.mark("imports")
    overrides = sys.argv[1:]
    # Whatever libraries print belongs to standard error: standard output carries the result alone.
    results = os.dup(1)
    os.dup2(2, 1)
    end_after_work()
    try:
        if ranks().size > 1 and not several_ranks:
            verb = pipeline.__name__.replace("_", " ")
            raise UserError(f"{verb}: {ranks().size} processes were started, expected one: start it without a launcher")
        config = compose(pipeline.__name__, overrides)
        check_config(config, {"format": Literal["text", "json"], **types})
        STARTUP.mark("composition")
        result = pipeline(config)
        ignore_stop_signals()
    except BaseException as error:
        ignore_stop_signals()  # a launcher now ends the other ranks: the status of each is to be its own
        reported = _reported(error)
        if reported is None:
            raise
        sys.stderr.write(f"convatlas: error: {printable(str(reported))}\n")
        sys.exit(reported.status)
    sys.stdout.flush()
    os.dup2(results, 1)
    if not is_rank_zero():
        sys.exit(0)
    if config.format == "json":
        sys.stdout.write(dumps(result, indent=2) + "\n")
    else:
        show(result)
    sys.stdout.flush()
    sys.exit(status(result))


def _reported(error: BaseException | None) -> ReportedError | None:
    """What is to be told behind an exception; Hydra wraps what constructors raise.

    A full or read-only disk and a GPU without memory are the user's to mend, whichever library met them.
    """
    while error is not None and not isinstance(error, ReportedError):
        if type(error).__name__ == "OutOfMemoryError":  # torch's, which most verbs do not import
            return UserError(
                "out of memory on the GPU: lower data.global_batch_size, or raise trainer.accumulate_grad_batches "
                f"({' '.join(str(error).split())[:160]})"
            )
        if isinstance(error, OSError) and error.errno in (*FULL, errno.EROFS):
            return UserError(f"{error.filename or 'a file'} cannot be written ({error.strerror})")
        error = error.__cause__
    return error


def _usage(verbs: Mapping[str, Path]) -> None:
    sys.stdout.write("convatlas VERB [key=value …]\n\n")
    for verb, path in verbs.items():
        sys.stdout.write(f"  {verb:<14}{_docstring(path).splitlines()[0]}\n")
    sys.stdout.write("\nconvatlas VERB --help explains a verb and lists its keys. Every verb takes format=json.\n")


def _help(path: Path) -> None:
    conf = project_path("conf")
    keys = (conf / f"{path.stem}.yaml").read_text(encoding="utf-8")
    if "- train\n" in keys:  # check takes what train takes
        keys += "\n" + (conf / "train.yaml").read_text(encoding="utf-8")
    sys.stdout.write(_docstring(path) + "\n")
    for group in sorted(folder for folder in conf.iterdir() if folder.is_dir()):
        if f"- {group.name}:" in keys.replace("optional ", ""):
            options = " ".join(sorted(option.stem for option in group.glob("*.yaml")))
            lines = textwrap.wrap(options, 100, initial_indent=f"{group.name:<12}", subsequent_indent=" " * 12)
            sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.write(f"\nThe keys and their defaults:\n\n{keys}")


def _docstring(path: Path) -> str:
    """What a pipeline says of itself, read without running it."""
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")), clean=False) or ""

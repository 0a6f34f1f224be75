"""The command line: ``convatlas VERB [overrides]`` runs ``pipelines/VERB.py``; ``data verify`` is ``data_verify.py``.

Results go to standard output; progress, logs and errors go to standard error.
"""

import ast
import errno
import io
import locale
import os
import runpy
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
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
VERBS = {
    "Train and use networks": ("check", "train", "evaluate", "predict", "describe", "list"),
    "Prepare and inspect data": ("data",),
    "Run jobs on a SLURM cluster": ("submit", "jobs"),
    "Show and publish results": ("runs", "report", "dashboard", "sync", "workspace"),
    "Search, compare and reproduce": ("sweep", "study", "reproduce"),
}
"""The groups of verbs in the help, by the first words of the verbs."""


def main() -> int:
    """Run one verb; the entry point of the ``convatlas`` command."""
    use_utf8()
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"convatlas {version('convatlas')}\n")
        return 0
    verbs = {path.stem.replace("_", " "): path for path in sorted(project_path("pipelines").glob("*.py"))}
    arguments = sys.argv[1:]
    group = "".join(f"{word} " for word in arguments if word not in HELP)  # all verbs, or those of `convatlas data`
    members = {verb: path for verb, path in verbs.items() if verb.startswith(group)}
    if members or arguments[0] in HELP:
        with reader_may_leave():
            _usage(members or verbs)
        return 0
    words = 2 if " ".join(arguments[:2]) in verbs else 1
    verb, overrides = " ".join(arguments[:words]), arguments[words:]
    if verb not in verbs:
        sys.stderr.write(f"convatlas: error: no verb '{verb}': one of {', '.join(verbs)}\n")
        return 2
    if any(argument in HELP for argument in overrides):
        with reader_may_leave():
            _help(verbs[verb])
        return 0
    sys.argv = [str(verbs[verb]), *overrides]
    runpy.run_path(str(verbs[verb]), run_name="__main__")
    return 0


def use_utf8() -> None:
    """Read and write all names and texts as UTF-8, whatever the locale; start the process again if necessary.

    Class names, paths and captions then have the same bytes on every machine. Characters that cannot be printed are
    printed as escapes.
    """
    if not sys.flags.utf8_mode and locale.getencoding().lower() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"  # child processes inherit it
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
    bare_key: str | None = None,
) -> NoReturn:
    """Compose the configuration, run a pipeline, print its result and exit.

    The exit status is 0, or the value of ``status``; 2 for a mistake that the user can correct; 75 for a run that a
    signal stopped and that the same command continues; 1 for anything else, including a lost rank.

    Args:
        pipeline: A function of the composed configuration; ``conf/<name>.yaml`` has the name of the function.
        show: Prints the result for a person.
        types: Types of keys that belong to no constructor, by dotted name.
        compose: Composes the configuration from the pipeline's name and the overrides.
        status: Computes the exit status from the result.
        several_ranks: Whether the verb runs in all processes that a launcher has started. Other verbs would do the
            same work in each process and write to the same files.
        bare_key: A key whose value may be given without ``key=``, as the first argument.
    """
    use_utf8()
    STARTUP.mark("imports")
    overrides = sys.argv[1:]
    if bare_key is not None and overrides and "=" not in overrides[0]:
        overrides[0] = f"{bare_key}={overrides[0]}"
    # Output of libraries goes to standard error: standard output carries only the result.
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
        ignore_stop_signals()  # a launcher now ends the other ranks: each keeps its own exit status
        reported = _reported(error)
        if reported is None:
            raise
        sys.stderr.write(f"convatlas: error: {printable(str(reported))}\n")
        sys.exit(reported.status)
    sys.stdout.flush()
    os.dup2(results, 1)
    if not is_rank_zero():
        sys.exit(0)
    with reader_may_leave():
        if config.format == "json":
            sys.stdout.write(dumps(result, indent=2) + "\n")
        else:
            show(result)
    sys.exit(status(result))


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """Write to standard output; end quietly if its reader does not read to the end, such as ``head``."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes once more at its exit
        sys.exit(128 + signal.SIGPIPE)


def _reported(error: BaseException | None) -> ReportedError | None:
    """Find the exception to report: Hydra wraps the exceptions of constructors.

    The user can correct a full or read-only disk and a lack of GPU memory, whichever library raised the error.
    """
    while error is not None and not isinstance(error, ReportedError):
        if type(error).__name__ == "OutOfMemoryError":  # of torch, which most verbs do not import
            return UserError(
                "out of memory on the GPU: lower data.global_batch_size, or raise trainer.accumulate_grad_batches "
                f"({' '.join(str(error).split())[:160]})"
            )
        if isinstance(error, OSError) and error.errno in (*FULL, errno.EROFS):
            return UserError(f"{error.filename or 'a file'} cannot be written ({error.strerror})")
        error = error.__cause__
    return error


def _usage(verbs: Mapping[str, Path]) -> None:
    sys.stdout.write("convatlas VERB [key=value …]\n")
    for title, words in VERBS.items():
        members = [verb for word in words for verb in verbs if verb.split()[0] == word]
        lines = [f"  {verb:<14}{_docstring(verbs[verb]).splitlines()[0]}\n" for verb in members]
        sys.stdout.writelines([f"\n{title}\n", *lines] if lines else [])
    sys.stdout.write(
        "\nconvatlas VERB --help explains a verb and lists its keys.\n"
        "convatlas list GROUP lists the options of a group.\n"
        "Every verb takes format=json.\n"
    )


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
    """Read the docstring of a pipeline without running it."""
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")), clean=False) or ""

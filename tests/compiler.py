"""What torch's inductor needs of a machine."""

import os
import shutil
import sysconfig
from pathlib import Path

import pytest


def missing() -> str | None:
    """What is not there to compile with; None if all is."""
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        return "no C++ compiler for torch's inductor"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "no headers of Python for torch's inductor"
    return None


needs_compiler = pytest.mark.skipif(missing() is not None, reason=str(missing()))

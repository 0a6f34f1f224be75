"""The wheel carries everything: it works in an empty environment and an empty directory."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", str(output), str(ROOT)], check=True)
    (built,) = output.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_configurations_pipelines_images_and_licences(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "conf", "pipelines", "slurm", "src"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for path in tracked:
        inside = path.removeprefix("src/") if path.startswith("src/") else f"convatlas/{path}"
        assert inside in names, inside
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_the_installed_wheel_trains_in_an_empty_directory(wheel: Path, tmp_path: Path) -> None:
    # A new environment that sees the dependencies of this one, but not its checkout of ConvAtlas.
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    python = tmp_path / "env" / "bin" / "python"
    site = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    here = next(path for path in sys.path if path.endswith("site-packages"))
    Path(site, "dependencies.pth").write_text(f"{here}\n", encoding="utf-8")
    subprocess.run(
        [str(python), "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", str(wheel)], check=True
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    done = subprocess.run(
        [str(tmp_path / "env" / "bin" / "convatlas"), "train", "debug=fast", "format=json"],
        cwd=empty,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["state"] == "finished"
    assert (empty / json.loads(done.stdout)["run"] / "checkpoints" / "best.ckpt").is_file()
    installed = subprocess.run(
        [str(python), "-c", "import convatlas; print(convatlas.__file__)"], cwd=empty, capture_output=True, text=True
    )
    assert installed.stdout.startswith(site)

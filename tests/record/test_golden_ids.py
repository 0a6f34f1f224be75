"""The names of runs stay: of every experiment, for data with the fingerprint ``data``.

An identity that changes restarts unfinished runs of users. A new argument at its default, a new key of
``conf/train.yaml`` at its default and a class that moves change none. After a change of a recipe that is meant,
``python -m tests.record.test_golden_ids`` writes the file anew.
"""

import json
from pathlib import Path

from omegaconf import OmegaConf

from convatlas.config.composition import compose, plain
from convatlas.record.identity import run_id

CONF = Path(__file__).parents[2] / "conf"
GOLDEN = Path(__file__).parent / "golden_ids.json"


def ids() -> dict[str, str]:
    """The run id of each experiment and of each data set."""
    commands = {
        f"{group}={path.stem}": f"{group}={path.stem}"
        for group in ("experiment", "data")
        for path in sorted((CONF / group).glob("*.yaml"))
    }
    found = {}
    for name, override in commands.items():
        config = compose("train", [override, "data.num_classes=10"])
        if OmegaConf.is_missing(config.data, "root"):
            config.data.root = "somewhere"
        found[name] = run_id(plain(config), "data")
    return found


def test_the_names_of_runs_are_those_on_record() -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    found = ids()
    assert {name: found.get(name) for name in golden} == golden
    assert found.keys() == golden.keys(), "a new configuration: write the file anew"


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(ids(), indent=1) + "\n", encoding="utf-8")

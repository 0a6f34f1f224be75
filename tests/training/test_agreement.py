"""Two real ranks (gloo), started as Kubeflow, Ray or a script starts them, compare what they were given."""

import json

from convatlas.training.agreement import settings_to_compare
from tests.fixtures import run_two_ranks

RANK = """
import json, os
from convatlas.config.composition import compose
from convatlas.errors import UserError
from convatlas.training import agreement

rank = int(os.environ["RANK"])

def said(*overrides, **parts):
    config = compose("train", ["trainer.accelerator=cpu", "data=imagefolder", "data.root=x", *overrides])
    try:
        agreement.agree(config, parts)
    except UserError as error:
        return str(error)
    return None

found = {
    "paths": said(f"data.root=/scratch/{rank}", f"data.threads={rank + 1}", data="same"),
    "seed": said(f"seed={rank}"),
    "learning rate": said(f"optimizer.learning_rate=0.{rank + 1}"),
    "how often to save": said(f"run.checkpoint_steps={rank + 1}"),
    "data": said(data=f"fingerprint {rank}"),
    "schedule": said("schedule=" + ("one_cycle", "cosine")[rank]),
}
agreement.code_digest = lambda: f"code {rank}"
found["code"] = said()
agreement.code_digest = lambda: "code"
agreement.environment = lambda: {"python": "3", "packages": {"torch": f"2.{rank}"}}
found["package"] = said()
print(json.dumps(found))
"""


def test_all_ranks_report_how_their_inputs_differ() -> None:
    ends = run_two_ranks("-c", RANK)
    assert [end.returncode for end in ends] == [0, 0], [end.stderr for end in ends]
    first, second = (json.loads(end.stdout) for end in ends)
    assert first == second
    assert first.pop("paths") is None
    expected = {
        "seed": "seed is 0 on rank 0 and 1 on rank 1",
        "learning rate": "optimizer.learning_rate is 0.1 on rank 0 and 0.2 on rank 1",
        "how often to save": "run.checkpoint_steps is 1 on rank 0 and 2 on rank 1",
        "data": "data is fingerprint 0 on rank 0 and fingerprint 1 on rank 1",
        "schedule": "schedule._target_ is ",
        "code": "code is code 0 on rank 0 and code 1 on rank 1",
        "package": "torch is 2.0 on rank 0 and 2.1 on rank 1",
    }
    assert first.keys() == expected.keys()
    for name, message in first.items():
        assert message.startswith("the ranks differ: ")
        assert expected[name] in message
        assert "\n" not in message


def test_paths_and_threads_may_differ() -> None:
    settings = {"seed": 1, "data": {"root": "/a", "threads": 4, "mean": [0.5]}, "tracking": {"wandb": {"project": "p"}}}
    assert settings_to_compare(settings) == {"seed": 1, "data.mean": [0.5]}

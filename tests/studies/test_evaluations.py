from pathlib import Path
from typing import Any

from convatlas.config.composition import compose
from convatlas.record.directory import RunDirectory, now
from convatlas.studies.plan import StudyPlan, StudyRun, plan_evaluations
from tests.studies.conftest import study_of


def test_the_paths_of_an_evaluation_may_contain_special_characters(asked: dict[str, Any], tmp_path: Path) -> None:
    arms = {"deep": {"label": "deep", "evaluate": ["protocol=ten_crop"]}, "flat": {"label": "flat"}}
    study = study_of(asked, arms=arms, seeds=[0], metric="test/top1")
    run = RunDirectory(tmp_path / "a=1,b (c) 'd'")
    run.path.mkdir()
    best = {"metric": "val/top1", "value": 0.5, "step": 3}
    run.update(state="finished", ended=now(), epochs=1, steps=3, best=best, test={})
    plan = StudyPlan({cell: {0: StudyRun(run, ())} for cell in study.cells})
    (evaluation, *_) = plan_evaluations(study, plan, run.path / "study").values()
    config = compose("evaluate", evaluation.overrides)
    assert (config.run, config.output) == ([str(run.path)], str(evaluation.folder))

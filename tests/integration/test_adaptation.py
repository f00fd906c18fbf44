"""Adapting a model to a dataset on storage: three candidates, one comparison, and the best one registered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs.cli import run as run_command
from stmp.errors import ConfigError
from stmp.evaluation.guard import ADAPTED, FROZEN, NAIVE, SCRATCH, Comparison
from stmp.evaluation.metrics import SUMS
from stmp.forecaster import Forecaster
from stmp.learning.meta import MetaTrainer, Shard
from stmp.learning.train import train as train_panel
from stmp.learning.transfer import adaptation_config
from stmp.learning.workers import Workers
from stmp.nets.names import GROUPS
from stmp_platform.registry import list_versions, resolve
from stmp_platform.settings import Settings
from stmp_platform.training import Adaptation, Job, adapt, adaptation, train
from stmp_platform.training.adaptation import FOLDERS
from tests.training import furthest, on_workers, small_config, small_panel, to_numpy, weights

STEPS = ("train.max_steps=8", "train.checkpoint_every=2", "train.validate_every=4", "train.log_every=4")
WEIGHTS = "weights.safetensors"


@pytest.fixture(scope="module")
def source() -> Forecaster:
    """A model of the first city."""
    torch.set_num_threads(1)
    return train_panel(small_panel(), small_config("train.max_steps=8"))


def go(source: Forecaster, data: str, out: Path, *overrides: str, **options: Any) -> Adaptation:
    return adapt(source, data, out=str(out), overrides=[*STEPS, *overrides], **{"track": False} | options)


@pytest.fixture(scope="module")
def adapted(source: Forecaster, other_city: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Adaptation]:
    """An adaptation that nothing happened to."""
    out = tmp_path_factory.mktemp("adapted")
    return out, go(source, other_city, out)


def test_all_candidates_are_trained_and_compared(source: Forecaster, adapted: tuple[Path, Adaptation]) -> None:
    out, found = adapted
    models = {name: Forecaster.load(out / folder / "model") for name, folder in FOLDERS.items()}
    assert [models[name].provenance.steps for name in (FROZEN, ADAPTED, SCRATCH)] == [0, 8, 8]
    assert models[ADAPTED].provenance.source == source.name == models[FROZEN].provenance.source
    assert models[SCRATCH].provenance.source == ""
    theirs = source.model.state_dict()
    assert set(found.comparison.sums) == {FROZEN, ADAPTED, SCRATCH, NAIVE}
    shared = [name for name, value in models[FROZEN].model.state_dict().items() if value.shape == theirs[name].shape]
    assert any(torch.equal(models[FROZEN].model.state_dict()[n], theirs[n]) for n in shared)
    assert not any(torch.equal(models[SCRATCH].model.state_dict()[n], theirs[n]) for n in shared if "bias" not in n)
    job = found.candidates[ADAPTED].job
    assert Job.from_json(json.loads(json.dumps(job.to_json()))) == job
    content = json.loads((out / "transfer.json").read_text())
    assert content["winner"] == found.comparison.winner and content["verdict"] == found.comparison.verdict()
    assert found.inheritance["inputs"]["known-future"] == {"reused": ["promo", "price"], "new": ["open"], "dropped": []}


def comparison(winner: str) -> Comparison:
    """One that a candidate has won."""
    sums = {}
    for name in (FROZEN, ADAPTED, SCRATCH, NAIVE):
        sums[name] = np.zeros((3, len(SUMS)))
        sums[name][:, [SUMS.index("n"), SUMS.index("squared")]] = 1.0, 1.0 if name == winner else 2.0
    return Comparison(sums, ("2022-06-01",), 7)


@pytest.mark.parametrize("winner", [NAIVE, ADAPTED, FROZEN, SCRATCH])
def test_the_winner_is_what_is_registered(
    adapted: tuple[Path, Adaptation], source: Forecaster, other_city: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, winner: str,
) -> None:  # fmt: skip
    out, _ = adapted
    settings = Settings.from_env(f"sqlite:///{tmp_path}/mlflow.db", env={"STMP_HOME": str(tmp_path)})
    monkeypatch.setattr(adaptation, "compare", lambda *_, **__: comparison(winner))
    found = go(source, other_city, out, settings=settings, track=winner in (SCRATCH, NAIVE), register_as="city")
    assert all(result.finished_before for result in found.candidates.values())
    if winner == NAIVE:
        assert found.model is None and found.tracking is None
        assert list_versions(settings=settings) == []
        return
    best = (out / FOLDERS[winner] / "model" / WEIGHTS).read_bytes()
    assert (resolve(str(out)) / WEIGHTS).read_bytes() == best
    if winner == SCRATCH:
        (version,) = list_versions("city", settings)
        assert (resolve(version.uri, settings) / WEIGHTS).read_bytes() == best
        assert found.tracking is not None and version.run_id == found.tracking.run_id
        assert version.tags["stmp.source"] == source.name


class Died(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@pytest.mark.parametrize("moment", ["adapted:5", "scratch:3", "compare"])
def test_a_killed_adaptation_ends_bit_for_bit_like_one_never_killed(
    source: Forecaster, other_city: str, adapted: tuple[Path, Adaptation], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, moment: str,
) -> None:  # fmt: skip
    candidate, _, at = moment.partition(":")
    step = MetaTrainer.train_step

    def train_step(self: MetaTrainer) -> None:
        if at and self.step == int(at) and (self.penalty is None) == (candidate == "scratch"):
            raise Died
        step(self)

    def die(*_: Any, **__: Any) -> None:
        raise Died

    monkeypatch.setattr(MetaTrainer, "train_step", train_step)
    if candidate == "compare":
        monkeypatch.setattr(adaptation, "compare", die)
    with pytest.raises(Died):
        go(source, other_city, tmp_path)
    assert not (tmp_path / "model").exists()
    monkeypatch.undo()
    go(source, other_city, tmp_path)
    for folder in FOLDERS.values():
        left, right = (out / folder / "model" / WEIGHTS for out in (tmp_path, adapted[0]))
        assert left.read_bytes() == right.read_bytes(), folder


def test_another_source_or_lambda_in_the_same_folder_is_refused(
    source: Forecaster, other_city: str, adapted: tuple[Path, Adaptation]
) -> None:
    out, _ = adapted
    other = train_panel(small_panel(), small_config("train.max_steps=1"))
    with pytest.raises(ConfigError, match="adaptation of another model"):
        go(other, other_city, out)
    with pytest.raises(ConfigError, match=r"transfer\.lambda_head was 0\.1, now 'inf'"):
        go(source, other_city, out, "transfer.lambda_head=.inf")


def test_without_a_source_there_is_no_model_of_no_steps(other_city: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"max_steps is 0"):
        train(other_city, small_config("train.max_steps=0"), out=str(tmp_path / "out"), track=False)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_adapted_is_told_before_anything_is_written(
    source: Forecaster, other_city: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"model\.hidden is 8 in the source, not 16"):
        go(source, other_city, tmp_path / "out", "model.hidden=16")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--source", "nowhere"), "There is no folder nowhere"),
        (("--lambda", "-1"), "Usage"),
        (("--lambda", "nan"), "--lambda"),
        (("--set", "model.hidden=4"), "model.hidden is 8 in the source, not 4"),
        (("--set", "validation.periods=0"), "validation.periods"),
        (("--until", "1999-01-01"), "1999-01-01"),
        (("--data", "nothing"), "is no dataset"),
        (("--workers", "1:10"), "Use 9 workers or fewer"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(
    source: Forecaster, other_city: str, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    source.save("model")
    given = {"--source": "model", "--data": other_city, "--out": "out"} | {arguments[0]: arguments[1]}
    assert run_command(["adapt", *(part for pair in given.items() for part in pair)]) == 2
    told = capfd.readouterr().err
    assert words in told and "Traceback" not in told
    assert not list(tmp_path.glob("out/model")) and not list(tmp_path.glob("*.db"))


def few_steps(folder: str, strength: str) -> dict[str, Any]:
    """Weights and score after a few steps of adapting, of this worker among its fellows."""
    torch.set_num_threads(1)
    source, panel, workers = Forecaster.load(folder), small_panel(seed=2), Workers()
    settings = [f"transfer.lambda_{group}={strength}" for group in GROUPS]
    config = adaptation_config(source, "D", settings).resolve(1, panel.shape[1])
    regions, positions, scored, held_out = Shard.plan(panel.shape[0], config, workers.rank, workers.size)
    shard = Shard(panel.select(regions), positions, panel.shape[0], panel.select(scored), held_out)
    until = panel.index_of(panel.last_observed) + 1
    trainer = MetaTrainer(shard, config, seed=0, until=until, workers=workers, source=source)
    for _ in range(3):
        trainer.train_step()
    return {**weights(trainer), "score": np.array(trainer.validate()["all"])}


def test_two_workers_adapt_as_one_does(source: Forecaster, tmp_path: Path) -> None:
    source.save(tmp_path / "source")
    alone = to_numpy(few_steps(str(tmp_path / "source"), "0.05"))
    for worker in on_workers(2, few_steps, str(tmp_path / "source"), "0.05"):
        assert furthest(alone, worker)[0] < 1e-4, furthest(alone, worker)

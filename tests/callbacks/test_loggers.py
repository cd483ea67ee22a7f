"""What each logger gets, and how a run says where that is found.

The slow tests need the real libraries: `pip install -e '.[loggers]'`. Elsewhere, mocks stand for them.
"""

import json
import os
import shutil
import struct
import sys
from contextlib import suppress
from unittest.mock import MagicMock

import numpy as np
import pytest
import yaml
from PIL import Image
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import backend_context, metadata

from ngram_mlp.callbacks.media_loggers import media_loggers
from tests.cli.folders import scalars

OPTIONS = ("--trainer.max_steps", "21", "--model.n_hidden", "20", "--trainer.val_check_interval", "10")
OBSERVED = (*OPTIONS, "--observe.every_n_updates", "10/20/0")
FIGURES = {"activations", "saturation", "gradients", "weight_gradients", "update_to_data", "embedding", "loss"}


def hint(out):
    (line,) = [line for line in out.splitlines() if line.startswith("view ")]
    return line.removeprefix("view    ")


def hparams(events):
    """What a folder or file of events has for TensorBoard's HParams page, by tag."""
    with suppress(KeyError):  # of an unknown plugin
        return EventAccumulator(str(events)).Reload().PluginTagToContent("hparams")
    return {}


def page(*folders):
    """What TensorBoard's HParams page shows of runs: by column, in the page's order, the value of each run."""
    contents = {str(folder): hparams(folder) for folder in folders}
    context = backend_context.Context(None)
    experiment = context.experiment_from_metadata(None, "", False, contents, [])
    starts = [content[metadata.SESSION_START_INFO_TAG] for content in contents.values()]
    values = [metadata.parse_session_start_info_plugin_data(start).hparams for start in starts]
    return {
        info.name: [run[info.name].string_value or run[info.name].number_value for run in values]
        for info in experiment.hparam_infos
    }


def test_tensorboards_page_shows_what_can_differ_and_the_file_holds_all(run_train):
    folder, out = run_train(*OPTIONS, "--model.optimizer.lr", "0.3")
    assert hint(out).endswith("tensorboard --logdir 'runs/default/n_hidden=20 lr=0.3/version_0'")
    columns = page(folder)
    names = ["model/class", "optimizer/init_args/lr", "data/batch_size", "data/block_size", "model/n_hidden"]
    assert [columns[name] for name in names] == [["BatchNormMLP"], [0.3], [32], [3], [20]]
    assert not [name for name in columns if "sha256" in name or "data_dir" in name or "characters" in name]
    assert [step for step, _ in scalars(folder)["val/loss"]] == [9, 19, 20]
    values = yaml.safe_load((folder / "hparams.yaml").read_text())
    assert values["seed"] == 2147483647
    assert values["model"]["n_hidden"] == 20
    assert values["optimizer"]["class_path"] == "torch.optim.SGD"
    assert values["optimizer"]["init_args"]["lr"] == 0.3
    assert values["lr_scheduler"]["init_args"]["milestones"] == [100_000]
    assert values["data"]["batch_size"] == 32
    assert len(values["data"]["sha256"]) == 64


def test_tensorboards_page_begins_with_what_differs(run_train):
    changes = ([], ["--model.optimizer.lr", "0.3"], ["--seed_everything", "7"])
    columns = page(*(run_train(*OPTIONS, *changed)[0] for changed in changes))
    assert [*columns.items()][:2] == [("optimizer/init_args/lr", [0.1, 0.3, 0.1]), ("seed", [2147483647] * 2 + [7])]
    assert all(len(set(values)) == 1 for values in [*columns.values()][2:])


def test_a_run_that_goes_on_elsewhere_has_a_page_too(run_train, tmp_path):
    folder, _ = run_train(*OPTIONS)
    events = sorted(folder.glob("events*"))
    shutil.copy(folder / "checkpoints" / "last.ckpt", tmp_path / "moved.ckpt")
    run_train("--resume", str(folder), "--trainer.max_steps", "30")
    (later,) = set(folder.glob("events*")) - set(events)
    assert hparams(later) == {}
    elsewhere, _ = run_train(*OPTIONS, "--trainer.max_steps", "30", "--ckpt_path", "moved.ckpt")
    assert elsewhere != folder
    assert page(elsewhere) == page(folder)


def test_a_user_may_want_no_hyperparameters(run_train):
    folder, _ = run_train(*OPTIONS, "--trainer.enable_autolog_hparams", "false")
    assert hparams(folder) == {}
    assert "enable_autolog_hparams: false" in (folder / "config.yaml").read_text()
    folder, _ = run_train(*OPTIONS)
    assert "enable_autolog_hparams: true" in (folder / "config.yaml").read_text()


def test_a_csv_logger_gets_numbers_and_hyperparameters(run_train, tmp_path):
    folder, out = run_train(*OBSERVED, "--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "csv")
    assert hint(out) == "csv/lightning_logs/version_0/metrics.csv"
    header, *rows = (tmp_path / hint(out)).read_text().splitlines()
    assert {"val/loss", "within_hidden1/saturated", "words/novel"} <= {*header.split(",")}
    assert len(rows) >= 3
    values = yaml.safe_load((tmp_path / hint(out)).with_name("hparams.yaml").read_text())
    assert values["model"]["class"] == "BatchNormMLP"
    assert {path.stem for path in (folder / "figures").iterdir()} == FIGURES


class OwnLogger(Logger):
    """A user's."""

    name, version = "own", 3

    def __init__(self):
        super().__init__()
        self.numbers, self.values = {}, []
        OwnLogger.last = self

    def log_metrics(self, metrics, step):
        assert metrics
        self.numbers |= dict.fromkeys(metrics, step)

    def log_hyperparams(self, params):
        self.values.append(params)


def test_a_users_logger_gets_numbers_and_hyperparameters_beside_another(run_train):
    own, tensorboard = "tests.callbacks.test_loggers.OwnLogger", "pytorch_lightning.loggers.TensorBoardLogger"
    loggers = f"[{{class_path: {own}}}, {{class_path: {tensorboard}, init_args: {{save_dir: tb}}}}]"
    _, out = run_train(*OBSERVED, "--trainer.logger", loggers)
    assert OwnLogger.last.numbers.keys() >= {"val/loss", "within_hidden1/saturated", "words/novel", "train/loss"}
    (values,) = OwnLogger.last.values
    assert values["optimizer"]["init_args"]["lr"] == 0.1
    assert "view    OwnLogger own" in out
    assert "tensorboard --logdir tb/lightning_logs/version_0" in out
    assert "hp_metric" not in scalars("tb/lightning_logs/version_0")


@pytest.mark.parametrize("option", [("--trainer.logger", "false"), ("--trainer.fast_dev_run", "2")])
def test_no_logger_is_no_obstacle(option, run_train):
    _, out = run_train(*OPTIONS, *option)
    assert hint(out) == "runs/default/n_hidden=20/version_0"


@pytest.fixture
def libraries(monkeypatch):
    """Mocks of the loggers' libraries, by name."""
    found = {}
    for name in (
        *("comet_ml", "litlogger", "litlogger.generator", "wandb", "wandb.sdk", "wandb.sdk.lib", "wandb.wandb_run"),
        *("mlflow", "mlflow.entities", "mlflow.tracking", "mlflow.tracking.context"),
    ):
        found[name] = MagicMock(name=name)
    found["wandb"].run = None
    found["wandb.sdk.lib"].RunDisabled = found["wandb.wandb_run"].Run = MagicMock
    found["litlogger.generator"]._create_name.return_value = "clever-name"
    found["comet_ml"].start.return_value.project_name = "names"
    for name in ("log_parameters", "log_metrics", "set_model_graph"):
        setattr(found["comet_ml"].start.return_value, f"__internal_api__{name}__", MagicMock())
    found["mlflow.tracking"].MlflowClient.return_value.create_run.return_value.info.run_id = "run"
    found["mlflow.tracking"].context = found["mlflow.tracking.context"]
    for name, module in found.items():
        monkeypatch.setitem(sys.modules, name, module)
    for logger, requirement in (("comet", "_COMET"), ("mlflow", "_MLFLOW"), ("wandb", "_WANDB")):
        monkeypatch.setattr(f"pytorch_lightning.loggers.{logger}.{requirement}_AVAILABLE", True)
    return found


def test_comet_gets_numbers_and_hyperparameters(libraries, run_train):
    _, out = run_train(*OBSERVED, "--trainer.logger", "CometLogger")
    experiment = libraries["comet_ml"].start.return_value
    (call,) = experiment.__internal_api__log_parameters__.call_args_list
    assert call.kwargs["parameters"]["model"]["n_hidden"] == 20
    numbers = {name for call in experiment.__internal_api__log_metrics__.call_args_list for name in call.args[0]}
    assert {"val/loss", "within_hidden1/saturated"} <= numbers
    assert hint(out).startswith("CometLogger ")


@pytest.mark.filterwarnings("ignore:LitLogger does not support `log_graph`")  # Lightning asks every logger to
def test_litlogger_gets_numbers_and_hyperparameters(libraries, run_train):
    _, out = run_train(*OBSERVED, "--trainer.logger", "pytorch_lightning.loggers.LitLogger")
    experiment = libraries["litlogger"].Experiment.return_value
    values = dict(call.args for call in experiment.__setitem__.call_args_list)
    assert "'n_hidden': 20" in values["model"]
    assert {"val/loss", "within_hidden1/saturated"} <= {call.args[0] for call in experiment.__getitem__.call_args_list}
    assert hint(out) == "LitLogger ./lightning_logs/clever-name"


def test_weights_and_biases_gets_everything(libraries, run_train):
    libraries["wandb"].init.return_value.offline = False
    libraries["wandb"].init.return_value.url = "https://wandb.ai/names"
    _, out = run_train(*OBSERVED, "--trainer.logger", "WandbLogger")
    run = libraries["wandb"].init.return_value
    assert run.config.update.call_args.args[0]["model"]["n_hidden"] == 20
    steps = {}
    for call in run.log.call_args_list:
        for name in call.args[0]:
            steps.setdefault(name, set()).add(call.args[0]["trainer/global_step"])
    assert steps["val/loss"] == {9, 19, 20}
    assert steps["within_hidden1/saturated"] == {0, 10, 20}
    assert steps["within_hidden1/value/linear.weight"] == steps["run/samples"] == {0, 20}
    assert {name for name in steps if name.startswith("views/")} == {f"views/{name}" for name in FIGURES}
    assert hint(out) == "https://wandb.ai/names"


def test_mlflow_gets_everything(libraries, run_train):
    _, out = run_train(*OBSERVED, "--trainer.logger", "MLFlowLogger")
    client = libraries["mlflow.tracking"].MlflowClient.return_value
    params = {call.kwargs["key"]: call.kwargs["value"] for call in libraries["mlflow.entities"].Param.call_args_list}
    assert params["optimizer/init_args/lr"] == "0.1"
    images = {(call.kwargs["key"], call.kwargs["step"]) for call in client.log_image.call_args_list}
    assert images == {(f"views/{name}", 21 if name == "loss" else 20) for name in FIGURES}
    texts = {call.args[2]: call.args[1] for call in client.log_text.call_args_list}
    assert "first loss" in texts["texts/verdicts/before the first update/0.md"]
    assert hint(out).endswith("mlflow ui --backend-store-uri file:./mlruns")
    assert hint(
        run_train(*OPTIONS, "--trainer.logger=MLFlowLogger", "--trainer.logger.tracking_uri=http://a:5")[1]
    ) == ("http://a:5")


def test_a_subclass_of_a_logger_is_as_good(tmp_path):
    logger = type("Renamed", (TensorBoardLogger,), {})(tmp_path)
    assert [type(one).__name__ for one in media_loggers([logger, OwnLogger()])] == ["TensorBoard"]


def test_a_run_with_tensorboard_imports_neither_wandb_nor_mlflow(run_train, monkeypatch):
    for name in ("wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it fails
    run_train(*OBSERVED)


@pytest.mark.slow
def test_mlflows_own_store_holds_everything(run_train, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # which MLflow 3 wants to be asked for
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    folder, out = run_train(*OBSERVED, "--trainer.logger", "MLFlowLogger", "--trainer.logger.save_dir", "store")
    assert hint(out).endswith("mlflow ui --backend-store-uri file:store")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"file:{tmp_path / 'store'}")
    experiment = client.get_experiment_by_name("lightning_logs")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["model/class"] == "BatchNormMLP"
    assert run.data.params["lr_scheduler/init_args/milestones"] == "[100000]"
    assert "hp_metric" not in run.data.metrics
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "val/loss")] == [9, 19, 20]
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "within_hidden1/saturated")] == [
        0,
        10,
        20,
    ]
    artifacts = tmp_path / "store" / experiment.experiment_id / run.info.run_id / "artifacts"
    for name in FIGURES:
        (path,) = artifacts.glob(f"images/views~{name}*+step+*.png")
        assert f"+step+{21 if name == 'loss' else 20}+" in path.name
        with Image.open(path) as image, Image.open(folder / "figures" / f"{name}.png") as own:
            assert np.array_equal(np.asarray(image.convert("RGB")), np.asarray(own.convert("RGB")))
    assert "," in (artifacts / "texts/run/samples/20.md").read_text()
    assert "first loss" in (artifacts / "texts/verdicts/before the first update/0.md").read_text()


@pytest.mark.slow
def test_weights_and_biases_own_file_holds_everything(run_train, monkeypatch, tmp_path):
    for name, value in {"MODE": "offline", "DIR": str(tmp_path), "SILENT": "true", "CONSOLE": "off"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    import wandb

    options = ("--trainer.logger", "WandbLogger", "--trainer.logger.offline", "true")
    folder, out = run_train(*OBSERVED, *options)
    wandb.finish()
    program, command, synced = hint(out).split()
    assert os.path.basename(program) == "wandb"
    assert command == "sync"
    (path,) = (tmp_path / synced).glob("run-*.wandb")
    config, history = wandb_records(path.read_bytes())
    assert config["model"]["class"] == "BatchNormMLP"
    assert config["optimizer"]["init_args"]["lr"] == 0.1
    points = {}
    for row in history:
        for name, value in row.items():
            points.setdefault(name, []).append((row["trainer/global_step"], value))
    assert "hp_metric" not in points
    assert [step for step, _ in points["val/loss"]] == [9, 19, 20]
    assert [step for step, _ in points["within_hidden1/saturated"]] == [0, 10, 20]
    (_, _), (step, histogram) = points["within_hidden1/value/linear.weight"]
    assert (step, histogram["_type"], sum(histogram["values"])) == (20, "histogram", 600)
    for name in FIGURES:
        ((step, image),) = points[f"views/{name}"]
        assert step == (21 if name == "loss" else 20)
        with (
            Image.open(path.parent / "files" / image["path"]) as shown,
            Image.open(folder / "figures" / f"{name}.png") as own,
        ):
            assert np.array_equal(np.asarray(shown.convert("RGB")), np.asarray(own.convert("RGB")))
    ((step, text),) = points["verdicts/before the first update"]
    assert step == 0
    assert "first loss" in (path.parent / "files" / text["path"]).read_text()


def wandb_records(content):
    """The configuration and the rows of a .wandb file: LevelDB's log format, 7 bytes of header before it."""
    from wandb.proto.wandb_internal_pb2 import Record

    block, place, parts, config, history = 32_768, 7, b"", {}, []
    while place + 7 <= len(content):
        if block - place % block < 7:  # too little is left for the head of a record
            place += block - place % block
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            record, parts = Record.FromString(parts), b""
            config |= nested(*record.run.config.update, *record.config.update)
            history += [nested(*record.history.item)] if record.history.item else []
    return config, history


def nested(*items):
    """Their values by key, as they were logged."""
    found = {}
    for item in items:
        *outer, last = item.nested_key or [item.key]
        place = found
        for key in outer:
            place = place.setdefault(key, {})
        place[last] = json.loads(item.value_json)
    return found

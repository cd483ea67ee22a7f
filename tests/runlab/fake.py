"""A script for studies and searches that trains nothing: its losses are a formula's, and a run takes milliseconds.

It takes the options that `runlab.Script` asks for, leaves a run's files, saves a checkpoint, obeys signals, and reports
to the process that watches it.
"""

import json
import math
import os
import signal
import time
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jsonargparse import ActionConfigFile

from runlab import LAST, Diverged, Script, UserError, alone_in, claim_run_folder, command, watcher
from runlab._channel import Begins, HasDiverged, Validated
from runlab._parser import OneLineParser

FAKE = Script(Path(__file__), preload=__name__)
SPLITS = ("train", "val", "test")


@dataclass
class Optimizer:
    lr: float = 0.1


@dataclass
class Model:
    n_hidden: int = 8
    activation: Literal["Tanh", "ReLU"] = "Tanh"
    norm: bool = False
    optimizer: Optimizer = field(default_factory=Optimizer)


@command
def main(args: Any = None) -> None:
    parser = OneLineParser()
    parser.add_argument("--config", action=ActionConfigFile)
    parser.add_argument("--model", type=Model, default=Model())
    for option, default in {"max_steps": 60, "validate_every": 20, "save_every": 10_000, "batch_size": 8}.items():
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--seed_everything", type=int, default=1)
    parser.add_argument("--pause", type=float, default=0.0, help="Seconds per update.")
    parser.add_argument("--killed_at", type=int, default=-1, help="The update of one death, unless `spared` is there.")
    for option in ("name", "runs_dir", "resume"):
        parser.add_argument(f"--{option}", type=str, default="runs")
    options = parser.parse_args(args)
    if options.model.norm and options.batch_size == 1:
        raise UserError("a norm has no standard deviation over 1 example", batch_size=1)
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(SystemExit(143)))
    if options.resume == "runs":
        folder, update = claim_run_folder(options.runs_dir, options.name), 0
        (folder / "config.yaml").write_text(json.dumps(options.as_dict() | {"config": None}, default=str))
    else:
        folder, update = Path(options.resume), json.loads(Path(options.resume, LAST).read_text())["update"]
        options = parser.parse_object(json.loads((folder / "config.yaml").read_text()) | {"config": None})
    with alone_in(folder):
        train(options, folder, update)


def train(options: Any, folder: Path, update: int) -> None:
    model, first = options.model, update
    if not answered(Begins(100 * model.n_hidden)):
        raise SystemExit(0)
    try:
        while update < options.max_steps:
            if update == options.killed_at and update == first and not Path("spared").exists():
                die()
            update += 1
            time.sleep(options.pause)
            if update % options.save_every == 0:
                save(folder, update)
            if model.optimizer.lr > 1e30:
                answered(HasDiverged())
                raise Diverged(f"diverged at update {update}; lower the rate")
            if update % options.validate_every == 0:
                last = update == options.max_steps
                if not answered(Validated(update, {"val/loss": loss_at(options, update)}, last)) or last:
                    break
                if update == options.killed_at and not Path("spared").exists():
                    die()
    except (KeyboardInterrupt, SystemExit):
        save(folder, update)
        print(f"resume with: --resume {folder}")
        raise
    metrics: dict[str, Any] = {split: {"loss": loss_at(options, update)} for split in SPLITS}
    metrics |= {"updates": update, "updates_per_second": 1.0, "corpus": {"sha256": ""}}
    np.save(folder / "losses.npy", np.array([loss_at(options, n) for n in range(update)], np.float32))
    (folder / "metrics.json").write_text(json.dumps(metrics))


def loss_at(options: Any, update: int) -> float:
    """A curve that falls to a value of the options' own."""
    words = json.dumps([options.model.as_dict(), options.batch_size, options.seed_everything], default=str)
    level = int(sha256(words.encode()).hexdigest()[:6], 16) / 16**6
    return 2 + level / 2 + math.exp(-update / 20)


def answered(message: Any) -> bool:
    if (connection := watcher()) is None:
        return True
    connection.send(message)
    return bool(connection.recv())


def save(folder: Path, update: int) -> None:
    (folder / LAST).parent.mkdir(exist_ok=True)
    (folder / LAST).write_text(json.dumps({"update": update}))


def die() -> None:
    Path("spared").touch()
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()

"""What two runs leave in their folders, compared."""

import json

import torch
from pytorch_lightning import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from multistep import Calls


class Witness(Callback):
    """Looks at every tenth minibatch before it is trained on, and remembers how often."""

    update_calls = Calls(around=(10,))

    def __init__(self):
        self.looks = 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step % 10:
            return
        self.looks += 1
        trainer.logger.log_metrics({"looks": float(self.looks)}, step=trainer.global_step)

    def on_train_end(self, trainer, pl_module):
        trainer.logger.log_metrics({"looks at the end": float(self.looks)}, step=trainer.global_step)

    def state_dict(self):
        return {"looks": self.looks}

    def load_state_dict(self, state_dict):
        self.looks = state_dict["looks"]


def scalars(folder):
    """TensorBoard's curves: (step, value) by tag."""
    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def weights(checkpoint):
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def assert_same_run(whole, other):
    """The other run ended as the first did, bit for bit, and leaves the same curves, best checkpoint and reports."""
    for name in ("losses.npy", "samples.txt"):
        assert (whole / name).read_bytes() == (other / name).read_bytes(), name
    names = sorted(path.name for path in (whole / "checkpoints").iterdir())
    assert sorted(path.name for path in (other / "checkpoints").iterdir()) == names
    for name in names:
        expected, found = (weights(folder / "checkpoints" / name) for folder in (whole, other))
        assert expected.keys() == found.keys()
        assert all(value.equal(found[key]) for key, value in expected.items()), name
    curves, expected_curves = scalars(other), scalars(whole)
    assert curves.keys() == expected_curves.keys()
    for tag, points in curves.items():
        assert points == expected_curves[tag], tag
    expected, found = (json.loads((folder / "metrics.json").read_text()) for folder in (whole, other))
    for record in (expected, found):
        del record["seconds"], record["updates_per_second"]
    assert found == expected

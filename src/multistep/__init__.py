"""Trains any LightningModule several updates at a time, in compiled code where possible, through one callback.

    from multistep import MultiStep

    trainer = Trainer(max_epochs=20, callbacks=[MultiStep()])
    trainer.fit(module, loader)

docs/multistep.md describes what is compiled and what trains as Python.
"""

from multistep._callback import EngineName, MultiStep
from multistep._calls import Calls
from multistep._errors import EngineMismatchError, EngineUnavailableError

__all__ = ["Calls", "EngineMismatchError", "EngineName", "EngineUnavailableError", "MultiStep"]

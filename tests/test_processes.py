import pytest
import torch.distributed as dist

from ngram_mlp.processes import raise_if_another_has_ended
from runlab import UserError

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer"


@pytest.mark.parametrize("error", [RuntimeError(GLOO), dist.DistBackendError("NCCL error"), dist.DistNetworkError("")])
def test_an_exchange_that_fails_within_lightning_or_torch_is_one_line(error):
    with pytest.raises(UserError, match="another process of this run has ended, so this one stops too"):
        raise_if_another_has_ended(error)


@pytest.mark.parametrize("error", [RuntimeError("shapes cannot be multiplied"), ValueError(GLOO)])
def test_other_errors_stay_what_they_are(error):
    raise_if_another_has_ended(error)

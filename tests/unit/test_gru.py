"""The GRU of the networks: in serving it leaves out products that are known."""

import pytest
import torch

from models.layers import Gru


@pytest.mark.parametrize("used", [0, 3, 8])
def test_a_gru_serves_what_it_computes_in_training(used: int) -> None:
    """Also for states of zeros, none, some or all of the batch."""
    torch.manual_seed(3)
    gru = Gru(5)
    torch.nn.init.normal_(gru.recurrent.bias)
    states, gates = torch.randn(8, 5), torch.randn(8, gru.gates)
    states[torch.randperm(8)[used:]] = 0.0
    with torch.no_grad():
        trained = gru(states, gates)
    with torch.inference_mode():
        served = gru(states, gates)
    torch.testing.assert_close(served, trained)

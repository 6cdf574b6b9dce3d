import torch

from necklace.heads import Gap


def test_gap_is_the_mean_and_a_linear_layer() -> None:
    head, features = Gap(4, 3), torch.randn(2, 4, 5, 7)
    expected = features.flatten(2).mean(2) @ head.fc.weight.T + head.fc.bias
    assert torch.allclose(head(features), expected, atol=1e-6)

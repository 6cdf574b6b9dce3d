import pytest
import torch

from necklace.build import facts_of
from necklace.study.profile import _speeds, _Subject
from tests.conftest import SMALL, spec_of


@pytest.mark.parametrize(("precision", "expected"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)])
def test_speeds_are_those_of_the_rows_precision(precision: str, expected: torch.dtype) -> None:
    options = "neck=focal", "optimizer=muon", f"trainer.precision={precision}", "trainer.accelerator=cpu"
    config = spec_of([*SMALL, *options]).resolved
    row = config, facts_of(config)
    subject, seen = _Subject(row), []
    subject.model.register_forward_hook(lambda module, given, logits: seen.append((module.training, len(logits), logits.dtype)))
    before = [weight.detach().clone() for weight in subject.model.parameters()]
    assert subject.latency_ms() > 0
    assert subject.train_images_per_s() > 0
    assert set(seen) == {(False, 1, expected), (True, config["batch_size"], expected)}
    assert all(weight.dtype == torch.float32 for weight in subject.model.parameters())
    assert any(not torch.equal(old, new) for old, new in zip(before, subject.model.parameters(), strict=True))
    assert _speeds({"focal": row})["focal"]["device"]

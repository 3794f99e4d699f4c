"""The dense loss: targets of known boxes, a hook that sees the pass, and heads that are gone afterwards."""

from __future__ import annotations

import pytest
import torch

from finetune.errors import RecipeError
from finetune.examples.tokens import IGNORED
from qwenvl.checkpoints.loading import load_checkpoint
from qwenvl.decoding.onednn_linear import unpack_linears
from qwenvl.families import get_family
from qwenvl.images.preprocess import preprocess
from recipes.training.dense_aid import DenseAid, boxes_of

ANSWER = '[{"bbox_2d": [0, 0, 100, 100], "label": "one"}, {"bbox_2d": [900, 450, 990, 540], "label": "two"}]'


@pytest.fixture(scope="module")
def checkpoint():
    found = load_checkpoint("embedded")
    unpack_linears(found.model)
    return found


def labels(checkpoint, text=ANSWER):
    ids = checkpoint.tokenizer(text + "<|im_end|>", add_special_tokens=False)["input_ids"]
    return torch.tensor([IGNORED, IGNORED, *ids])


def test_targets_are_the_tokens_that_hold_the_centres(checkpoint):
    aid = DenseAid(checkpoint.model, checkpoint.tokenizer, checkpoint.family, ("one", "two"))
    wanted = aid.targets(labels(checkpoint), (1, 16, 16))
    aid.release()
    assert wanted.shape == (64, 2)
    # centres 50, 50 and 945, 495 of 1000 on 8 x 8 tokens: row 0 column 0, row 3 column 7
    assert [tuple(place) for place in wanted.nonzero().tolist()] == [(0, 0), (31, 1)]


def test_a_step_down_the_loss_makes_it_smaller_and_release_ends_it(checkpoint):
    model = checkpoint.model
    with torch.random.fork_rng():
        torch.manual_seed(3)
        aid = DenseAid(model, checkpoint.tokenizer, checkpoint.family, ("one", "two"))
    picture = (torch.rand(256, 256, 3, generator=torch.Generator().manual_seed(1)) * 255).byte().numpy()
    patches = preprocess([picture], checkpoint.processor)
    optimizer = torch.optim.SGD(aid.parameters(), lr=0.005)
    losses = []
    for _ in range(4):
        model.model.visual(patches.pixel_values, grid_thw=patches.image_grid_thw)
        loss = aid.loss(labels(checkpoint)[None], patches.image_grid_thw)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.98 * losses[0]
    assert losses == sorted(losses, reverse=True)
    aid.release()
    model.model.visual(patches.pixel_values, grid_thw=patches.image_grid_thw)
    with pytest.raises(KeyError):
        aid.loss(labels(checkpoint)[None], patches.image_grid_thw)


@pytest.mark.parametrize(
    "text", ["", "a word", "{}", "[1, 2]", '[{"bbox_2d": [1, 2], "label": "a"}]', '[{"label": "a"}]']
)
def test_other_answers_have_no_boxes(text):
    assert boxes_of(text) == []


@pytest.mark.parametrize(("family", "names"), [("Qwen3-VL", ()), ("Qwen2.5-VL", ("one",))])
def test_where_it_cannot_help_it_says_so(checkpoint, family, names):
    with pytest.raises(RecipeError, match="dense"):
        DenseAid(checkpoint.model, checkpoint.tokenizer, get_family(family), names)

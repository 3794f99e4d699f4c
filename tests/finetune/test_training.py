"""Training on tiny models: what learns, what is refused, interruption, and what an adapter says of itself."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from finetune.config import FinetuneConfig
from finetune.dataset.cutting import Cutter, TileSpec
from finetune.dataset.samples import Dataset
from finetune.errors import DivergedError, FinetuneError, PreflightError, RecipeError
from finetune.examples.collate import KEYS, PLACES, Collator
from finetune.examples.conversation import Writer
from finetune.examples.label_source import LabelSource
from finetune.examples.schedule import make_schedule
from finetune.examples.tokens import TurnTokens
from finetune.methods.frozen_vision import FrozenVision
from finetune.methods.lora import LoraSettings, add_lora, matched_modules, trainable
from finetune.methods.loss import NumberTokenWeights, answer_loss
from finetune.train import finetune
from qwenvl.checkpoints.adapters.adapter import AdapterSwitch, read_card
from qwenvl.checkpoints.loading import load_checkpoint
from qwenvl.engines.local import LocalEngine
from qwenvl.errors import CheckpointError
from qwenvl.request import Generation, Request

pytest.importorskip("peft")
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
FAMILIES = ("Qwen2-VL", "Qwen2.5-VL", "Qwen3-VL", "Qwen3-VL-MoE", "Qwen3.5")


def recipe(cells: Dataset, base: Path, out: Path, **changes) -> FinetuneConfig:
    fields = {
        "dataset": cells.folder,
        "out": out,
        "base": str(base),
        "device": "cpu",
        "max_new_tokens": 24,
        "tile": {"size": 96},
        "lora": {"rank": 2},
        "evaluate": {"tiles": 2, "base": False},
        "train": {"steps": 4, "batch": 2, "learning_rate": 1e-3, "save_every": 1, "keep": 9},
    }
    return FinetuneConfig(**(fields | changes))


def source_of(checkpoint, cells: Dataset, size: int = 96) -> LabelSource:
    request = Request(task="detect", labels=cells.names, tile_size=size, overlap=0)
    tokens = TurnTokens(checkpoint.tokenizer, checkpoint.family)
    cutter = Cutter(cells, TileSpec(size=size), cells.names)
    return LabelSource(cutter, "train", request, Writer.of(checkpoint.description), tokens, checkpoint.processor)


def batch_of(checkpoint, cells: Dataset, count: int = 2):
    source = source_of(checkpoint, cells)
    plans = [source.plan(np.random.default_rng(i)) for i in range(count)]
    return Collator(checkpoint.processor, checkpoint.tokenizer.pad_token_id, checkpoint.image_token_id)(plans)


# ---------------------------------------------------------------------- what learns


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("targets", ["qv", "attention", "language"])
def test_presets_hit_the_language_model_alone(family, targets, tiny):
    model = load_checkpoint(tiny(family)).model
    checkpoint = load_checkpoint(tiny(family))
    names = matched_modules(model, LoraSettings(targets=targets), checkpoint.family)
    assert names
    assert all("language_model.layers." in name for name in names)


@pytest.mark.parametrize(("family", "layers"), [("Qwen2.5-VL", 2), ("Qwen3-VL", 8), ("Qwen3.5", 2)])
def test_the_merger_by_both_generations_names(family, layers, tiny):
    checkpoint = load_checkpoint(tiny(family))
    names = matched_modules(checkpoint.model, LoraSettings(merger=True), checkpoint.family)
    assert sum("merger" in name for name in names) == layers


@pytest.mark.parametrize(
    ("targets", "message"), [(("gate_proj",), "also hit the vision tower"), (("nothing",), "match no module")]
)
def test_targets_that_are_refused(targets, message, tiny):
    checkpoint = load_checkpoint(tiny("Qwen2.5-VL"))
    with pytest.raises(RecipeError, match=message):
        matched_modules(checkpoint.model, LoraSettings(targets=targets), checkpoint.family)


@pytest.mark.parametrize("method", ["lora", "dora", "rslora"])
def test_only_the_adapter_learns(method, tiny, cells):
    checkpoint = load_checkpoint(tiny("Qwen3-VL"))
    model = add_lora(checkpoint.model, LoraSettings(rank=2, method=method, merger=True), checkpoint.family)
    batch = batch_of(checkpoint, cells)
    batch.pop(KEYS), batch.pop(PLACES)
    assert all("lora_" in name for name in trainable(model))
    model(**batch).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


# ---------------------------------------------------------------------- batches


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_the_models_own(family, tiny, cells):
    checkpoint = load_checkpoint(tiny(family))
    batch = batch_of(checkpoint, cells)
    batch.pop(KEYS), batch.pop(PLACES)
    with torch.no_grad():
        output = checkpoint.model(**batch)
    assert torch.allclose(answer_loss(output.logits, batch["labels"], None), output.loss, atol=1e-5)


def test_padding_changes_nothing(tiny, cells):
    checkpoint = load_checkpoint(tiny("Qwen3-VL"))
    source = source_of(checkpoint, cells)
    plans = sorted((source.plan(np.random.default_rng(i)) for i in range(6)), key=lambda p: len(p.tokens.ids))
    short, long = plans[0], plans[-1]
    assert len(short.tokens.ids) < len(long.tokens.ids)
    collator = Collator(checkpoint.processor, checkpoint.tokenizer.pad_token_id, checkpoint.image_token_id)
    losses = []
    for rows in ([short], [short, long]):
        batch = collator(rows)
        batch.pop(KEYS), batch.pop(PLACES)
        with torch.no_grad():
            logits = checkpoint.model(**batch).logits[:1]
        losses.append(float(answer_loss(logits, batch["labels"][:1], None)))
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_frozen_tower_gives_the_same_and_remembers(family, tiny, cells):
    checkpoint = load_checkpoint(tiny(family))
    batch = batch_of(checkpoint, cells)
    batch.pop(PLACES), batch.pop(KEYS)
    with torch.no_grad():
        plain = checkpoint.model(**batch).logits
    vision = FrozenVision(checkpoint.model)
    seen = []
    for _ in range(2):
        vision.keys = ["a", "b"]
        seen.append(checkpoint.model(**batch).logits)
    assert torch.allclose(plain, seen[0], atol=1e-5)
    assert torch.equal(seen[0], seen[1])
    assert (vision.computed, vision.recalled) == (2, 2)
    vision.keys = ["b", "a"]  # not the order in which they were seen
    other = checkpoint.model(**batch).logits
    assert not torch.allclose(plain, other, atol=1e-5)
    vision.release()
    with torch.no_grad():
        assert torch.allclose(checkpoint.model(**batch).logits, plain, atol=1e-6)


def test_soft_coordinates():
    class Vocabulary:
        def __call__(self, text, add_special_tokens):
            return {"input_ids": [int(text)] if text.isdigit() else [1001, 1002]}

    numbers = NumberTokenWeights(Vocabulary())
    assert len(numbers.groups) == 1
    labels = torch.tensor([[5, 500, 7]])
    near, far = torch.full((1, 3, 1010), -9.0), torch.full((1, 3, 1010), -9.0)
    near[0, 0, 503], far[0, 0, 900] = 9.0, 9.0
    places = torch.tensor([[False, True, False]])
    options = {"numbers": numbers, "places": places, "sigma": 3.0}
    mask = torch.tensor([[-100, 500, -100]])
    assert answer_loss(near, mask, None, **options) < answer_loss(far, mask, None, **options) - 1
    plain = [answer_loss(x, mask, None) for x in (near, far)]
    assert torch.allclose(plain[0], plain[1])  # without soft targets both are as wrong
    assert labels.shape == mask.shape


# ---------------------------------------------------------------------- schedule


class Fixed:
    """A source whose samples have a known number of taught tokens."""

    def __init__(self, name, supervised, length=50):
        self.name, self.supervised, self.length = name, supervised, length

    def plan(self, rng):
        from finetune.examples.conversation import Exchange
        from finetune.examples.examples import ExamplePlan
        from finetune.examples.tokens import Tokens

        rng.random()
        taught = (False,) * (self.length - self.supervised) + (True,) * self.supervised
        return ExamplePlan(self.name, Tokens(tuple(range(self.length)), taught), Exchange("", ""))


@pytest.mark.parametrize("share", [0.0, 0.05, 0.1, 0.2])
def test_replay_shares_are_of_taught_tokens(share):
    sources = [Fixed("labels", 40), Fixed("words", 2), Fixed("boxes", 30)]
    shares = {"words": share / 2, "boxes": share / 2}
    schedule = make_schedule(sources, shares, count=1200, batch=4, seed=1)
    found = schedule.shares()
    assert found["words"] == pytest.approx(share / 2, abs=0.01)
    assert found["boxes"] == pytest.approx(share / 2, abs=0.02)
    assert make_schedule(sources, shares, count=1200, batch=4, seed=1) == schedule


def test_batches_hold_samples_of_like_length():
    class Varied(Fixed):
        def plan(self, rng):
            self.length = int(rng.integers(50, 400))
            return super().plan(rng)

    schedule = make_schedule([Varied("a", 10)], {}, count=512, batch=8, seed=0)
    lengths = np.array([entry.length for entry in schedule.entries]).reshape(-1, 8)
    assert np.ptp(lengths, axis=1).mean() < 0.2 * np.ptp(lengths)


# ---------------------------------------------------------------------- whole runs


def test_interrupted_at_any_step_it_ends_with_the_same_weights(tiny, cells, tmp_path):
    base = tiny("Qwen3-VL")
    lora = {"rank": 2, "dropout": 0.2, "merger": True}  # random numbers of training must go on, too
    augment = {"colour": 1.0, "pool": 3}  # tiles that were looked at are looked at again after an interruption
    whole = finetune(recipe(cells, base, tmp_path / "whole", lora=lora, augment=augment))
    expected = load_file(whole.adapter / "adapter_model.safetensors")
    for stop_after in (0, 1, 2):  # the event is seen at the end of the step after: every step of four but the last
        config = recipe(cells, base, tmp_path / f"stopped{stop_after}", lora=lora, augment=augment)
        cancel = threading.Event()
        first = finetune(config, cancel=cancel, progress=lambda s, n=stop_after, c=cancel: s.step >= n and c.set())
        assert first.stopped
        assert first.adapter is None
        assert first.steps < 4
        second = finetune(config)
        found = load_file(second.adapter / "adapter_model.safetensors")
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_run_that_had_been_trained_to_the_end_keeps_what_it_learned(tiny, cells, tmp_path):
    """Stopped while it was measured, or simply repeated: the adapter holds the trained weights, not fresh ones."""
    train = {"steps": 2, "batch": 2, "learning_rate": 1e-3}
    config = recipe(cells, tiny("Qwen3-VL"), tmp_path / "run", train=train)
    trained = load_file(finetune(config).adapter / "adapter_model.safetensors")
    assert any(tensor.any() for name, tensor in trained.items() if "lora_B" in name)
    again = load_file(finetune(config).adapter / "adapter_model.safetensors")
    assert again.keys() == trained.keys()
    assert all(torch.equal(again[name], trained[name]) for name in trained)


@pytest.mark.parametrize("family", ["Qwen2.5-VL", "Qwen3-VL-MoE", "Qwen3.5"])
def test_a_run_of_every_generation(family, tiny, cells, tmp_path):
    config = recipe(cells, tiny(family), tmp_path / "run", train={"steps": 2, "batch": 2, "checkpointing": True})
    result = finetune(config)
    card = read_card(result.adapter)
    assert card.family == family
    assert card.labels == cells.names
    assert result.preflight.trainable > 0
    switch = AdapterSwitch(load_checkpoint(tiny(family)))
    assert switch.use(result.adapter).info.adapter == str(result.adapter)


def test_qlora_keeps_the_tower_in_16_bits(cells, tmp_path, monkeypatch):
    pytest.importorskip("bitsandbytes")
    from qwenvl.checkpoints import testing

    own = testing._config
    # bitsandbytes packs blocks of 64 weights, so every side has to be a multiple of 64.
    monkeypatch.setattr(testing, "_config", lambda f, i: _with_mlp(own(f, i), 128))
    base = testing.tiny_checkpoint("Qwen3-VL", tmp_path / "base")
    config = recipe(
        cells,
        base,
        tmp_path / "run",
        quantise="nf4",
        dtype="bfloat16",
        train={"steps": 2, "batch": 2, "learning_rate": 0.01},
    )
    from finetune.methods.loading import load_base

    model = load_base(config).model
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    assert kinds["model.language_model.layers.0.self_attn.q_proj"] == "Linear4bit"
    assert not any("4bit" in kind for name, kind in kinds.items() if "visual" in name)
    assert {p.dtype for p in model.model.visual.parameters()} == {torch.bfloat16}
    result = finetune(config)
    assert result.preflight.dtypes["vision"] == "bfloat16"
    # On 16-bit weights, where users load it.
    assert load_checkpoint(base, adapter=result.adapter).info.adapter == str(result.adapter)


def _with_mlp(config, size):
    config["text_config"]["intermediate_size"] = size
    return config


def test_nan_stops_and_keeps_the_last_good_state(tiny, cells, tmp_path, monkeypatch):
    from finetune import loop

    steps = []
    own = loop.Loop.loss_of

    def poisoned(self, model, batch, count=None):
        loss = own(self, model, batch, count)
        steps.append(1)
        return loss * float("nan") if len(steps) == 4 else loss  # the first is the check before training

    monkeypatch.setattr(loop.Loop, "loss_of", poisoned)
    config = recipe(cells, tiny("Qwen3-VL"), tmp_path / "run")
    with pytest.raises(DivergedError, match=r"step 3: the loss is nan; the last good state is .*checkpoint-2"):
        finetune(config)
    state = load_file(tmp_path / "run/states/checkpoint-2/adapter_model.safetensors")
    assert all(torch.isfinite(value).all() for value in state.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ("dark", "violet")}, "labels violet are not in dataset"),
        ({"tile": {"size": 96, "mpp": 0.5}}, "does not state its pixel size"),
        ({"tile": {"size": 300}, "train": {"steps": 1, "max_length": 40}}, "do not fit the model"),
        ({"train": {"steps": 1, "soft_coordinates": 3}}, "this vocabulary writes digits"),
        ({"replay": {"sources": [{"name": "x", "kind": "pictures", "path": "none"}]}}, "no folder of pictures"),
        ({"replay": {"sources": [{"name": "x", "kind": "factory", "share": 0.5}]}}, "state shares of 0.50"),
    ],
)
def test_recipes_that_are_refused(changes, message, tiny, cells, tmp_path):
    with pytest.raises(FinetuneError, match=message):
        finetune(recipe(cells, tiny("Qwen3-VL"), tmp_path / "run", **changes))


def test_a_class_with_one_example_and_leaks_are_refused(tiny, cells, tmp_path):
    from dataclasses import replace

    trained = [entry.id for entry in cells.of_split("train")]
    first = next(label for label in cells.labels if label.slide == trained[0] and label.name == "dark")
    rare = (*(label for label in cells.labels if label.name != "dark"), first)
    one = replace(cells, labels=rare).save(tmp_path / "one")
    with pytest.raises(RecipeError, match="class 'dark' has 1 training example"):
        finetune(recipe(one, tiny("Qwen3-VL"), tmp_path / "run"))
    leaking = replace(cells, slides=tuple(replace(entry, patient="p") for entry in cells.slides)).save(
        tmp_path / "leak"
    )
    with pytest.raises(FinetuneError, match="of patient p"):
        finetune(recipe(leaking, tiny("Qwen3-VL"), tmp_path / "run2"))


def test_another_run_in_the_folder_is_never_overwritten(tiny, cells, tmp_path):
    config = recipe(cells, tiny("Qwen3-VL"), tmp_path / "run", train={"steps": 1, "batch": 1})
    finetune(config)
    begun = json.loads((tmp_path / "run/run.json").read_text())
    (tmp_path / "run/run.json").write_text(json.dumps(begun | {"base": "sha256:0"}))
    with pytest.raises(RecipeError, match="begun on other weights"):
        finetune(config)
    other = config.model_copy(update={"seed": 8})
    with pytest.raises(RecipeError, match="run with other settings"):
        finetune(other)
    finetune(other, overwrite=True)
    assert (tmp_path / "run.bak-1" / "adapter" / "adapter_model.safetensors").is_file()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(RecipeError, match="is not a fine-tuning run"):
        finetune(recipe(cells, tiny("Qwen3-VL"), tmp_path / "mine"))


# ---------------------------------------------------------------------- preflight


def test_preflight_sees_weights_without_gradient(tiny, cells, monkeypatch):
    from finetune.examples.schedule import Schedule, ScheduledExample
    from finetune.preflight import preflight

    checkpoint = load_checkpoint(tiny("Qwen3-VL"))
    model = add_lora(checkpoint.model, LoraSettings(rank=2, merger=True), checkpoint.family)
    FrozenVision(model.base_model.model)  # the fault: a tower without gradients before a merger that is to learn
    batch = batch_of(checkpoint, cells)
    batch.pop(KEYS)
    schedule = Schedule((ScheduledExample(0, 0, 90, 20),), ("labels",))

    def loss(model, batch):
        kept = {key: value for key, value in batch.items() if key != PLACES}
        return model(**kept).loss

    with pytest.raises(PreflightError, match=r"receive no gradient, such as .*merger"):
        preflight(model, batch, loss, schedule, batch_size=2)


def test_preflight_sees_a_quantised_or_blown_up_tower(tiny):
    from finetune.preflight import _require_sound_vision

    model = load_checkpoint(tiny("Qwen3-VL"), dtype="bfloat16").model
    _require_sound_vision(model)
    model.model.visual.float()
    with pytest.raises(PreflightError, match="float32 beside half-precision"):
        _require_sound_vision(model)

    class Linear4bit(torch.nn.Linear):
        pass

    model.model.visual.to(torch.bfloat16)
    model.model.visual.blocks[0].attn.qkv = Linear4bit(4, 4)
    with pytest.raises(PreflightError, match="tower is quantised"):
        _require_sound_vision(model)


# ---------------------------------------------------------------------- adapters


@pytest.fixture(scope="module")
def trained(tiny, cells, tmp_path_factory):
    """An adapter with an effect, made by a run."""
    out = tmp_path_factory.mktemp("trained") / "run"
    train = {"steps": 3, "batch": 2, "learning_rate": 0.05}
    return finetune(recipe(cells, tiny("Qwen3-VL"), out, train=train)).adapter


def logits_of(checkpoint, cells):
    batch = batch_of(checkpoint, cells)
    batch.pop(KEYS), batch.pop(PLACES)
    with torch.no_grad():
        return checkpoint.model(**batch).logits


def test_switching_gives_the_base_back_bit_for_bit(trained, tiny, cells):
    base = load_checkpoint(tiny("Qwen3-VL"))
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    plain = logits_of(base, cells)
    switch = AdapterSwitch(base)
    engine = LocalEngine(switch.use(trained))
    assert engine.info.fingerprint != base.info.fingerprint
    assert "run" in engine.info.versions["adapter"]
    assert not torch.allclose(logits_of(base, cells), plain, atol=1e-3)
    # A merged model and a model that peft wraps say the same.
    import peft

    wrapped = peft.PeftModel.from_pretrained(load_checkpoint(tiny("Qwen3-VL")).model, str(trained)).eval()
    batch = batch_of(base, cells)
    batch.pop(KEYS), batch.pop(PLACES)
    with torch.no_grad():
        assert torch.allclose(wrapped(**batch).logits, base.model(**batch).logits, atol=2e-4)
    request = Request(
        task="detect", labels=cells.names, tile_size=96, overlap=0, generation=Generation(max_new_tokens=12)
    )
    picture = np.full((96, 96, 3), 200, np.uint8)
    with_adapter = engine.answer([picture], request)[0].raw
    back = switch.use(None)
    assert all(torch.equal(value, before[name]) for name, value in back.model.state_dict().items())
    again = LocalEngine(back).answer([picture], request)[0].raw
    assert again == LocalEngine(load_checkpoint(tiny("Qwen3-VL"))).answer([picture], request)[0].raw
    assert LocalEngine(switch.use(trained)).answer([picture], request)[0].raw == with_adapter


def test_adapters_of_another_model_are_refused(trained, tiny, tmp_path):
    from qwenvl.checkpoints.testing import tiny_checkpoint

    with pytest.raises(CheckpointError, match=r"was trained on Qwen3-VL, the model is a Qwen2\.5-VL"):
        load_checkpoint(tiny("Qwen2.5-VL"), adapter=trained)
    with pytest.raises(CheckpointError, match="on other weights of Qwen3-VL"):
        load_checkpoint(tiny_checkpoint("Qwen3-VL", tmp_path / "other", seed=5), adapter=trained)


@pytest.mark.parametrize("fault", ["family", "keys", "processor", "card"])
def test_adapters_that_do_not_fit_are_refused(fault, trained, tiny, tmp_path):
    import shutil

    from safetensors.torch import save_file

    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    path = copy / "qwenvl_adapter.json"
    card = json.loads(path.read_text())
    if fault == "family":
        card["base"]["family"] = "Qwen2-VL"
    elif fault == "processor":
        card["processor"]["max_pixels"] += 1
    elif fault == "card":
        del card["base"]
    else:
        weights = load_file(copy / "adapter_model.safetensors")
        renamed = {key.replace("model.language_model.layers", "decoder.layers"): v for key, v in weights.items()}
        save_file(renamed, copy / "adapter_model.safetensors")
    path.write_text(json.dumps(card))
    expected = {
        "family": "trained on Qwen2-VL",
        "keys": "do not fit this model",
        "processor": "max_pixels",
        "card": "damaged",
    }
    base = load_checkpoint(tiny("Qwen3-VL"))
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    with pytest.raises(CheckpointError, match=expected[fault]):
        AdapterSwitch(base).use(copy)
    after = base.model.state_dict()
    assert after.keys() == before.keys()  # nothing of it is left on the model
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_merged_checkpoint_says_the_same(trained, tiny, cells, tmp_path):
    from finetune.adapter import merge_adapter

    merged = merge_adapter(trained, tmp_path / "merged")
    plain = load_checkpoint(merged)
    with_adapter = load_checkpoint(tiny("Qwen3-VL"), adapter=trained)
    assert torch.equal(logits_of(plain, cells), logits_of(with_adapter, cells))
    assert plain.info.adapter is None
    with pytest.raises(FinetuneError, match="exists already"):
        merge_adapter(trained, tmp_path / "merged")


def test_an_adapter_that_forgets_says_so_everywhere(trained, tiny, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    path = copy / "qwenvl_adapter.json"
    card = json.loads(path.read_text())
    card["forgetting"] = {"limit": 2.0, "lost": 31.5, "passed": False, "skills": {}}
    path.write_text(json.dumps(card))
    warning = load_checkpoint(tiny("Qwen3-VL"), adapter=copy).info.warning
    assert "FORGETS" in warning
    assert "31.5 points" in warning
    assert "FORGETS" not in (load_checkpoint(tiny("Qwen3-VL"), adapter=trained).info.warning or "")


def test_a_model_in_training_answers_with_its_adapter(tiny, cells, monkeypatch):
    """Copied and merged, or as peft wraps it: an engine that looked past the adapter would answer as the base."""
    from finetune.evaluation import evaluate

    checkpoint = load_checkpoint(tiny("Qwen3-VL"))
    vision = FrozenVision(checkpoint.model)
    model = add_lora(checkpoint.model, LoraSettings(rank=2), checkpoint.family)
    request = Request(task="describe", tile_size=96, overlap=0, generation=Generation(max_new_tokens=12))
    picture = np.full((96, 96, 3), 200, np.uint8)
    found = {}
    for strength in (0.0, 1.0):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.fill_(strength)
        for way, largest in (("merged", 2**28), ("live", 0)):
            monkeypatch.setattr(evaluate, "LARGEST", largest)
            with evaluate.engine_of(checkpoint, model, vision) as engine:
                found[strength, way] = engine.answer([picture], request)[0].raw
    assert found[0.0, "merged"] == found[0.0, "live"]
    assert found[1.0, "merged"] == found[1.0, "live"]
    assert found[1.0, "live"] != found[0.0, "live"]
    assert all(p.requires_grad for name, p in model.named_parameters() if "lora_" in name)


def test_a_merger_that_learns_over_kept_patches(tiny, cells):
    """The same logits and gradients as through the whole tower, also for pictures it has seen."""
    checkpoint = load_checkpoint(tiny("Qwen3-VL"))
    assert FrozenVision.keeps_order(checkpoint.model)
    assert not FrozenVision.keeps_order(load_checkpoint(tiny("Qwen2.5-VL")).model)
    settings = LoraSettings(rank=2, merger=True)
    batch = batch_of(checkpoint, cells, 3)
    batch.pop(PLACES), batch.pop(KEYS)
    found = []
    for frozen in (False, True):
        checkpoint = load_checkpoint(tiny("Qwen3-VL"))
        vision = FrozenVision(checkpoint.model, merger=True) if frozen else None
        model = add_lora(checkpoint.model, settings, checkpoint.family)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
        for keys in (["a", "b", "c"], ["a", "b", "c"])[: 1 + frozen]:
            if vision is not None:
                vision.keys = keys
            model.zero_grad()
            output = model(**batch)
            output.loss.backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
        found.append((output.logits.detach(), gradients))
    assert vision.recalled == 3
    assert torch.allclose(found[0][0], found[1][0], atol=1e-5)
    assert any("merger" in name and value.abs().sum() > 0 for name, value in found[1][1].items())
    for name, value in found[0][1].items():
        assert torch.allclose(value, found[1][1][name], atol=1e-6), name


def test_tiles_of_a_pool_come_again(tiny, cells):
    from finetune.examples.examples import Augmentation

    checkpoint = load_checkpoint(tiny("Qwen3-VL"))
    request = Request(task="detect", labels=cells.names, tile_size=96, overlap=0)
    source = LabelSource(
        Cutter(cells, TileSpec(size=96), cells.names),
        "train",
        request,
        Writer.of(checkpoint.description),
        TurnTokens(checkpoint.tokenizer, checkpoint.family),
        checkpoint.processor,
        augment=Augmentation(pool=5, colour=1.0),
    )
    plans = [source.plan(np.random.default_rng(i)) for i in range(30)]
    by_key = {plan.key: plan for plan in plans}
    assert len(by_key) == 5
    for plan in plans[:10]:  # one key, one picture
        assert np.array_equal(plan.load(), by_key[plan.key].load())
        assert plan.tokens == by_key[plan.key].tokens


def test_replayed_answers_are_taught_by_the_base_model(tiny, cells):
    """The base's probabilities are those of the model without its adapter, for the replayed rows alone."""
    from finetune.loop import Loop

    losses = {}
    for distil in (0.0, 1.0):
        checkpoint = load_checkpoint(tiny("Qwen3-VL"))
        with torch.no_grad():
            batch = batch_of(checkpoint, cells, 3)
            plain = checkpoint.model(**{k: v for k, v in batch.items() if k not in (KEYS, PLACES, "labels")}).logits
        replay = {"distil": distil, "sources": [{"name": "old", "kind": "factory"}]}
        config = recipe(cells, tiny("Qwen3-VL"), Path("run"), replay=replay)
        vision = FrozenVision(checkpoint.model, merger=True)
        model = add_lora(checkpoint.model, LoraSettings(rank=2, merger=True), checkpoint.family)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.fill_(0.05)
        loop = Loop(config, Path("run"), checkpoint, model, vision, None, (), None, None)
        batch["sources"] = ["labels", "old", "old"]
        if distil:
            rows = loop._replayed(batch["sources"], batch["labels"])
            assert rows.tolist() == [1, 2]
            given = {k: v for k, v in batch.items() if k not in (PLACES, "labels", "sources")}
            taught = loop._base_logits(given, rows, batch[KEYS])
            assert torch.allclose(taught, plain[rows], atol=1e-4)
        loss = loop.loss_of(model, batch)
        loss.backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
        losses[distil] = float(loss.detach())
    assert losses[0.0] != pytest.approx(losses[1.0])
    labels = torch.tensor([[-100, 1], [-100, 2]])
    logits = torch.randn(2, 2, 5, generator=torch.Generator().manual_seed(0))
    own = answer_loss(logits, labels, None)
    rows = torch.tensor([1])
    assert torch.equal(answer_loss(logits, labels, None, teacher=logits[rows], taught_rows=rows, distil=0.0), own)
    hard = torch.full((1, 2, 5), -99.0)
    hard[0, 0, 2] = 99.0  # a teacher that is sure of the very word
    same = answer_loss(logits, labels, None, teacher=hard, taught_rows=rows, distil=1.0)
    assert torch.allclose(same, own, atol=1e-5)


def test_little_room_for_tokens_changes_nothing(tiny, cells):
    """A picture that was kept, and is pushed out by others of the very batch it is needed in."""
    checkpoint = load_checkpoint(tiny("Qwen3-VL"))
    batch = batch_of(checkpoint, cells, 3)
    batch.pop(PLACES), batch.pop(KEYS)
    with torch.no_grad():
        plain = checkpoint.model(**batch).logits
    vision = FrozenVision(checkpoint.model)
    vision.keys = ["a", "b", "c"]
    checkpoint.model(**batch)
    size = vision._bytes // 3
    vision.release()
    vision = FrozenVision(checkpoint.model, keep=size)  # room for one
    for keys in (["a", "x", "y"], ["z", "b", "b2"], ["a", "b", "c"]):
        vision.keys = keys
        assert torch.allclose(checkpoint.model(**batch).logits, plain, atol=1e-5)
        assert vision._bytes <= size
    vision.keys = ["a", "b", "c"]
    vision._kept.clear()
    vision._kept["a"] = vision._rows(
        batch["pixel_values"][:, :], batch["image_grid_thw"], [None] * 3, {"return_dict": True}
    )[0]
    vision._bytes = size
    assert torch.allclose(checkpoint.model(**batch).logits, plain, atol=1e-5)
    assert "c" in vision._kept

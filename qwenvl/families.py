"""The families: everything that differs between one Qwen-VL generation and the next, in one table.

Nothing here is guessed from a model's output. Sources: transformers 5.23 `models/{qwen2_vl, qwen2_5_vl,
qwen3_vl, qwen3_vl_moe, qwen3_5, qwen3_5_moe}`, QwenLM/Qwen-VL `tokenization_qwen.py` and `visual.py`,
QwenLM/Qwen3-VL `cookbooks/2d_grounding.ipynb`, and the checkpoints' own `preprocessor_config.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from qwenvl.errors import CheckpointError, UnknownFamilyError
from qwenvl.images.geometry import CoordinateSpace, PictureFrame, smart_resize

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)


class Thinking(StrEnum):
    """Whether a family writes its reasoning before the answer."""

    NEVER = "never"
    ALWAYS = "always"
    """The prompt opens the thought; only the closing marker is in the output."""
    SWITCHABLE = "switchable"
    """On by default; the chat template takes `enable_thinking=False`."""


class VideoTime(StrEnum):
    """How a family is told when a frame was taken."""

    NONE = "none"
    INDEX = "index"
    """Only the order of frames, through temporal positions."""
    POSITIONS = "positions"
    """Temporal positions scaled by `tokens_per_second`."""
    TEXT = "text"
    """A stamp such as `<0.5 seconds>` before each frame."""


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Ids of the tokens that structure a conversation, in the vocabulary of the published checkpoints.

    A checkpoint's own `config.json` and tokenizer have the last word; these are for checks and for tests.
    """

    end_of_text: int = 151643
    im_start: int = 151644
    im_end: int = 151645
    vision_start: int = 151652
    vision_end: int = 151653
    image_pad: int = 151655
    video_pad: int | None = 151656
    object_ref_start: int | None = 151646
    object_ref_end: int | None = 151647
    box_start: int | None = 151648
    box_end: int | None = 151649
    quad_start: int | None = 151650
    quad_end: int | None = 151651
    think_start: int | None = None
    think_end: int | None = None


@dataclass(frozen=True, slots=True)
class ModelFamily:
    """What must be known of a family to ask it and to understand its answer."""

    name: str
    """Name in the registry, such as 'Qwen2.5-VL'."""
    model_types: tuple[str, ...]
    """Values of `model_type` in `config.json`."""
    architecture: str
    """Class in transformers; of the remote code for Qwen-VL."""
    patch_size: int
    """Side of a patch of the vision tower in px."""
    merge_size: int
    """Patches per visual token along one side."""
    min_pixels: int
    max_pixels: int
    """Default limits of the processed area in px; a checkpoint's processor settings replace them."""
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    space: CoordinateSpace
    dialect: str
    """Grounding dialect: 'tags_v1' (`<ref>`, `<box>`), 'tags_v2' (`<|box_start|>`) or 'json'."""
    default_system_prompt: str | None
    """The system prompt that the chat template writes when none is given."""
    thinking: Thinking = Thinking.NEVER
    tokens: SpecialTokens = field(default_factory=SpecialTokens)
    video_time: VideoTime = VideoTime.NONE
    mrope_section: tuple[int, int, int] | None = None
    """Rotary dimensions of time, height and width; None for one-dimensional positions."""
    mrope_interleaved: bool = False
    deepstack: bool = False
    """Features of inner vision layers are added to the first language layers."""
    windowed: bool = False
    """Most vision layers attend within 112 px windows."""
    linear_attention: bool = False
    """Three of four language layers are Gated DeltaNet, whose state cannot be cut back."""
    mixture: bool = False
    """Mixture of experts."""
    fixed_size: int | None = None
    """Side in px to which every picture is squashed; None where sizes are dynamic."""
    fixed_tokens: int | None = None
    """Visual tokens of every picture where the number is fixed."""
    remote_code: bool = False
    """The model class is not part of transformers."""
    temporal_patch_size: int = 2
    think_open: str = "<think>"
    think_close: str = "</think>"

    @property
    def factor(self) -> int:
        """Side of a visual token in px: processed sides are multiples of it."""
        return self.patch_size * self.merge_size

    def frame(
        self, width: int, height: int, *, min_pixels: int | None = None, max_pixels: int | None = None
    ) -> PictureFrame:
        """Frame of a picture of `width` x `height` px in this family.

        Raises
        ------
        PictureError
            The picture is empty or too long for its width.
        """
        if self.fixed_size is not None:
            return PictureFrame(width, height, self.fixed_size, self.fixed_size)
        processed_height, processed_width = smart_resize(
            height,
            width,
            factor=self.factor,
            min_pixels=self.min_pixels if min_pixels is None else min_pixels,
            max_pixels=self.max_pixels if max_pixels is None else max_pixels,
        )
        return PictureFrame(width, height, processed_width, processed_height)

    def image_tokens(
        self, width: int, height: int, *, min_pixels: int | None = None, max_pixels: int | None = None
    ) -> int:
        """Visual tokens that the language model sees of a picture of `width` x `height` px."""
        if self.fixed_tokens is not None:
            return self.fixed_tokens
        frame = self.frame(width, height, min_pixels=min_pixels, max_pixels=max_pixels)
        return (frame.processed_width // self.factor) * (frame.processed_height // self.factor)


_QWEN_VL = ModelFamily(
    name="Qwen-VL",
    model_types=("qwen",),
    architecture="QWenLMHeadModel",
    patch_size=14,
    merge_size=1,
    min_pixels=448 * 448,
    max_pixels=448 * 448,
    image_mean=CLIP_MEAN,
    image_std=CLIP_STD,
    space=CoordinateSpace.RELATIVE_1000,
    dialect="tags_v1",
    default_system_prompt="You are a helpful assistant.",
    # <ref>, <box>, <quad> and <img> stand in the range that later families use otherwise.
    tokens=SpecialTokens(
        vision_start=151857,
        vision_end=151858,
        image_pad=151859,
        video_pad=None,
        object_ref_start=151851,
        object_ref_end=151852,
        box_start=151853,
        box_end=151854,
        quad_start=151855,
        quad_end=151856,
    ),
    fixed_size=448,
    fixed_tokens=256,
    remote_code=True,
    temporal_patch_size=1,
)

_QWEN2_VL = ModelFamily(
    name="Qwen2-VL",
    model_types=("qwen2_vl",),
    architecture="Qwen2VLForConditionalGeneration",
    patch_size=14,
    merge_size=2,
    min_pixels=3_136,
    max_pixels=12_845_056,
    image_mean=CLIP_MEAN,
    image_std=CLIP_STD,
    space=CoordinateSpace.RELATIVE_1000,
    dialect="tags_v2",
    default_system_prompt="You are a helpful assistant.",
    video_time=VideoTime.INDEX,
    mrope_section=(16, 24, 24),
)

_QWEN2_5_VL = replace(
    _QWEN2_VL,
    name="Qwen2.5-VL",
    model_types=("qwen2_5_vl",),
    architecture="Qwen2_5_VLForConditionalGeneration",
    space=CoordinateSpace.ABSOLUTE_RESIZED,
    dialect="json",
    video_time=VideoTime.POSITIONS,
    windowed=True,
)

_QWEN3_VL = ModelFamily(
    name="Qwen3-VL",
    model_types=("qwen3_vl",),
    architecture="Qwen3VLForConditionalGeneration",
    patch_size=16,
    merge_size=2,
    min_pixels=65_536,
    max_pixels=16_777_216,
    image_mean=HALF,
    image_std=HALF,
    space=CoordinateSpace.RELATIVE_1000,
    dialect="json",
    default_system_prompt=None,
    tokens=SpecialTokens(think_start=151667, think_end=151668),
    video_time=VideoTime.TEXT,
    mrope_section=(24, 20, 20),
    mrope_interleaved=True,
    deepstack=True,
)

_QWEN3_VL_MOE = replace(
    _QWEN3_VL,
    name="Qwen3-VL-MoE",
    model_types=("qwen3_vl_moe",),
    architecture="Qwen3VLMoeForConditionalGeneration",
    mixture=True,
)

# Qwen3.6 checkpoints say qwen3_5 too. The picture ids are those of the config class; the first three follow from the
# order that all vocabularies share; the ids that are None were not found published.
_QWEN3_5 = replace(
    _QWEN3_VL,
    name="Qwen3.5",
    model_types=("qwen3_5",),
    architecture="Qwen3_5ForConditionalGeneration",
    thinking=Thinking.SWITCHABLE,
    tokens=SpecialTokens(
        end_of_text=248044,
        im_start=248045,
        im_end=248046,
        vision_start=248053,
        vision_end=248054,
        image_pad=248056,
        video_pad=248057,
        object_ref_start=None,
        object_ref_end=None,
        box_start=None,
        box_end=None,
        quad_start=None,
        quad_end=None,
    ),
    mrope_section=(11, 11, 10),
    deepstack=False,
    linear_attention=True,
)

FAMILIES: Mapping[str, ModelFamily] = {
    family.name: family
    for family in (
        _QWEN_VL,
        _QWEN2_VL,
        _QWEN2_5_VL,
        _QWEN3_VL,
        replace(_QWEN3_VL, name="Qwen3-VL-Thinking", thinking=Thinking.ALWAYS),
        _QWEN3_VL_MOE,
        replace(_QWEN3_VL_MOE, name="Qwen3-VL-MoE-Thinking", thinking=Thinking.ALWAYS),
        _QWEN3_5,
        replace(
            _QWEN3_5,
            name="Qwen3.5-MoE",
            model_types=("qwen3_5_moe",),
            architecture="Qwen3_5MoeForConditionalGeneration",
            mixture=True,
        ),
    )
}
"""Every known family by name."""


def get_family(name: str) -> ModelFamily:
    """The family called `name`, in any spelling of upper and lower case.

    Raises
    ------
    UnknownFamilyError
        No family has this name.
    """
    for known, family in FAMILIES.items():
        if known.casefold() == name.casefold():
            return family
    raise UnknownFamilyError(f"no family is called {name!r}; known are {', '.join(FAMILIES)}")


def family_of(
    config: Mapping[str, object], *, name: str = "", chat_template: str | None = None, family: str | None = None
) -> ModelFamily:
    """The family of a checkpoint.

    Parameters
    ----------
    config : Mapping
        Content of `config.json`.
    name : str
        Folder or hub name; Thinking variants are recognised by it where the chat template does not tell.
    chat_template : str, optional
        Jinja text. One that opens a thought belongs to a Thinking variant.
    family : str, optional
        Name in `FAMILIES` that overrides everything else.

    Raises
    ------
    UnknownFamilyError
        `model_type` belongs to no family, or `family` is not known.
    """
    if family is not None:
        return get_family(family)
    model_type = config.get("model_type")
    # The text-only first generation is called 'qwen' too; only Qwen-VL has a vision tower.
    matches = [
        known
        for known in FAMILIES.values()
        if model_type in known.model_types and (known.name != "Qwen-VL" or "visual" in config)
    ]
    if not matches:
        known_types = sorted({model_type for known in FAMILIES.values() for model_type in known.model_types})
        raise UnknownFamilyError(
            f"{name or 'checkpoint'}: model_type {model_type!r} is no Qwen vision-language family this package knows; "
            f"known are {', '.join(known_types)} (Qwen-VL's 'qwen' with a vision tower). "
            "Name the family explicitly if the checkpoint is a renamed copy of one of them"
        )
    thinks = "<think>" in chat_template if chat_template else "thinking" in name.casefold()
    for match in matches:
        if (match.thinking is Thinking.ALWAYS) == thinks:
            return match
    return matches[0]


def stated_grounding(family: ModelFamily, facts: Mapping[str, Any], source: object) -> ModelFamily:
    """The family with the coordinate `space` and `dialect` that a checkpoint states of itself.

    Parameters
    ----------
    family : ModelFamily
    facts : mapping
        Content of `qwenvl.json`: 'space' is 'relative_1000' or 'absolute_resized', 'dialect' is 'json', 'tags_v1' or
        'tags_v2'. A checkpoint that was fine-tuned to another habit than its family's says so there.
    source : object
        Named in errors.

    Raises
    ------
    CheckpointError
        It states something else.
    """
    for key, known in (("space", tuple(map(str, CoordinateSpace))), ("dialect", ("json", "tags_v1", "tags_v2"))):
        if facts.get(key) is not None and facts[key] not in known:
            raise CheckpointError(f"{source}: {key} is {facts[key]!r}; use one of {', '.join(known)}")
    if facts.get("space") is not None:
        family = replace(family, space=CoordinateSpace(facts["space"]))
    if facts.get("dialect") is not None:
        family = replace(family, dialect=facts["dialect"])
    return family

"""Options of a run as a user sets them, in a terminal or a panel, and the engine and request that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflows.errors import OptionsError
from wsi.regions.frames import PixelFrame

if TYPE_CHECKING:
    from qwenvl.engines.base import Engine
    from qwenvl.request import Request, Where
    from workflows.run.quality import QualitySettings

RECOMMENDED = ("mpp", "tile_size", "overlap", "max_objects")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of one run; the flags of the same names say what each means.

    None means: what the checkpoint recommends, else the default of `Request`.
    """

    out: Path | None = None
    overwrite: bool = False
    limit: int | None = None
    dry_run: bool = False
    model: str = "embedded"
    server: str | None = None
    adapter: Path | None = None
    family: str | None = None
    concurrency: int = 16
    device: str = "auto"
    dtype: str = "auto"
    quantise: str | None = None
    system_prompt: str | None = None
    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0
    mpp: float | None = None
    native: bool = False
    tile_size: int | None = None
    overlap: int | None = None
    min_tissue: float = 0.0
    max_objects: int | None = None
    split: int | None = None
    crowded: int | None = None
    where: str | None = None
    where_labels: str | None = None
    where_mpp: float | None = None
    where_tile_size: int | None = None
    where_overlap: int | None = None
    where_threshold: float | None = None
    token_budget: int | None = None
    qc: str | None = None
    qc_limit: list[str] | None = None
    mask: str = "auto"
    frame: PixelFrame | None = None
    slide_mpp: float | None = None
    plane: str | None = None
    rendering: str | None = None
    series: int | None = None
    colour: str | None = None

    def quality(self, unless_told: str = "off") -> QualitySettings:
        """Quality control as the flags ask for it.

        Raises
        ------
        pydantic.ValidationError, ValueError
            The mode or a limit is none.
        """
        from workflows.run.quality import QualitySettings

        return QualitySettings.of_words(self.qc or unless_told, self.qc_limit or ())

    @property
    def slide_options(self) -> dict[str, object]:
        """What `workflows.run_slide` takes as `slide_options`."""
        names = ("plane", "rendering", "series", "colour")
        return {name: getattr(self, name) for name in names}


def load_engine(options: RunOptions) -> tuple[Engine, Mapping[str, Any]]:
    """The engine of `--model` or `--server`, and the settings its checkpoint recommends.

    Raises
    ------
    OptionsError, QwenVLError
        Options that do not fit together, or a model that cannot be loaded or reached.
    """
    if options.server is not None:
        if options.adapter is not None:
            raise OptionsError("--adapter is for models in this process; a server loads its own and names it with -m.")
        if options.quantise is not None:
            raise OptionsError("--quantise is for models in this process; start the server with a quantised model.")
        from qwenvl.engines.remote import RemoteEngine

        model = None if options.model == "embedded" else options.model
        return RemoteEngine(options.server, model=model, family=options.family, concurrency=options.concurrency), {}
    from qwenvl.engines.local import LocalEngine

    engine = LocalEngine.load(
        options.model, device=options.device, dtype=options.dtype, adapter=options.adapter, quantise=options.quantise
    )
    if options.adapter is not None and options.mpp is None and not options.native:
        _require_scale(options.adapter)
    return engine, engine.checkpoint.recommended


def check_slide(slide: Path, options: RunOptions, **question: object) -> None:
    """Check a slide before a model is loaded.

    Raises
    ------
    SlideError, OptionsError
        All that is missing or wrong, in one message.
    """
    from qwenvl.checkpoints.recommended import factor_of, recommended_of
    from workflows.inputs.needed import require_all

    local = options.server is None
    recommended = recommended_of(options.model, options.adapter) if local else None
    require_all(
        slide,
        mpp=options.slide_mpp,
        options=options.slide_options,
        request=recommended_request(options, recommended or {}, **question),
        mask=options.mask,
        frame=options.frame,
        factor=None if recommended is None else factor_of(options.model),
    )


def _require_scale(adapter: Path) -> None:
    """Stop where an adapter was trained at a scale in px, which no slide can be brought to by its um."""
    from qwenvl.checkpoints.adapters.adapter import read_card

    card = read_card(adapter)
    factor = None if card is None else card.downsample
    if factor is not None and factor != 1:
        raise OptionsError(
            f"{adapter} was trained on tiles of {factor:g} level-0 px per px, of slides without a stated scale. Give "
            f"that scale: --slide-mpp 1 --mpp {factor:g} (or --native, or --mpp in um/px of your own)."
        )


def recommended_request(options: RunOptions, recommended: Mapping[str, object], **question: object) -> Request:
    """A request from options, else the checkpoint's recommendation, else the defaults of `Request`.

    Raises
    ------
    OptionsError
        Options that do not fit together.
    """
    from qwenvl.request import SPLIT_TASKS, Generation, Request

    if options.native and options.mpp is not None:
        raise OptionsError(
            f"--native takes the slide's own pixels and --mpp {options.mpp} another scale: leave one out."
        )
    fields: dict[str, object] = {}
    for name in RECOMMENDED:
        value = getattr(options, name)
        value = recommended.get(name) if value is None else value
        if value is not None and not (name == "mpp" and options.native):
            fields[name] = value
    generation: dict[str, Any] = {
        name: getattr(options, name) for name in ("temperature", "top_p", "top_k", "repetition_penalty", "seed")
    }
    longest = options.max_new_tokens or recommended.get("max_new_tokens")
    if longest is not None:
        generation["max_new_tokens"] = longest
    fields |= {"system_prompt": options.system_prompt, "min_tissue": options.min_tissue}
    fields |= {"token_budget": options.token_budget, "where": _where(options)}
    fields |= {} if options.colour is None else {"colour": options.colour}
    for name in ("split", "crowded"):
        given = getattr(options, name)
        advised = recommended.get(name) if question["task"] in SPLIT_TASKS else None
        if given is not None or advised is not None:
            fields[name] = advised if given is None else given
    return Request(**question, **fields, generation=Generation(**generation))


def _where(options: RunOptions) -> Where | None:
    """The question about coarse tiles, None where no flag asks for one."""
    from qwenvl.request import Where

    given = {
        name.removeprefix("where_"): getattr(options, name)
        for name in ("where_mpp", "where_tile_size", "where_overlap", "where_threshold")
        if getattr(options, name) is not None
    }
    if options.where is None:
        if given or options.where_labels is not None:
            raise OptionsError("Coarse tiles need a question: --where 'Is there tumor?', or a class of --where-labels.")
        return None
    if options.where_labels is None:
        return Where(question=options.where, **given)
    labels, wanted = (split_labels(words) for words in (options.where_labels, options.where))
    return Where(labels=labels, wanted=wanted, **given)


def split_labels(words: str) -> tuple[str, ...]:
    """'a, b' as ('a', 'b')."""
    return tuple(label.strip() for label in words.split(",") if label.strip())

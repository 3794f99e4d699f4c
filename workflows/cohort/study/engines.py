"""From the model section of a study to an engine, or, without loading it, to what a run records of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from qwenvl.engines.base import Engine
from workflows.cohort.study.config import ModelSettings
from workflows.errors import StudyError
from wsi.cleanup import cleaning_up

if TYPE_CHECKING:
    from qwenvl.checkpoints.checkpoint_metadata import CheckpointDescription


class Identity(BaseModel):
    """What tells one model from another."""

    model_config = ConfigDict(frozen=True)

    model: str
    fingerprint: str
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """A model seen from outside: no weights are loaded."""

    identity: Identity
    recommended: Mapping[str, Any] = field(default_factory=dict)
    description: CheckpointDescription | None = None
    """None for a served model and an engine of one's own."""


def require_allowed(settings: ModelSettings, *, allow_code: bool) -> None:
    """Raise StudyError where a study names code of its own and nobody said that it may be run."""
    if settings.engine is not None and not allow_code:
        raise StudyError(
            f"The study names an engine of its own, {settings.engine} (model.engine), which is code that would be "
            "imported and run. Look at it, then repeat the command with --allow-code (in Python: allow_code=True)."
        )


def look_at(settings: ModelSettings, *, allow_code: bool = False) -> Known:
    """What is known of a study's model without loading it; a server is asked for its models.

    Parameters
    ----------
    allow_code : bool
        Import and run the engine that the study names by 'module:function'.

    Raises
    ------
    CheckpointError, EngineError, StudyError
    """
    if settings.server is not None or settings.engine is not None:
        engine = make_engine(settings, allow_code=allow_code)
        with cleaning_up(engine.close):
            info = engine.info
            return Known(Identity(model=info.model, fingerprint=info.fingerprint, adapter=info.adapter))
    from qwenvl.checkpoints.checkpoint_metadata import describe_checkpoint, fingerprint
    from qwenvl.checkpoints.loading import find_checkpoint

    folder = find_checkpoint(settings.name)
    described = describe_checkpoint(folder, name=settings.name, family=settings.family)
    recommended, extra = described.recommended, ""
    if settings.adapter is not None:
        from qwenvl.checkpoints.adapters.adapter import adapter_hash, read_card, require_adapter

        adapter = Path(settings.adapter)
        require_adapter(adapter)
        extra = adapter_hash(adapter)
        if (card := read_card(adapter)) is not None:
            older = {key: value for key, value in recommended.items() if key != "mpp"}
            recommended = {**older, **card.recommended}
    elif settings.quantise is not None:
        from qwenvl.checkpoints.quantize import quantisation_of

        extra = f"quantise={quantisation_of(settings.quantise)}"
    identity = Identity(model=settings.name, fingerprint=fingerprint(folder, extra=extra), adapter=settings.adapter)
    return Known(identity, recommended, described)


def make_engine(
    settings: ModelSettings, *, device: str | None = None, sharing: int = 1, allow_code: bool = False
) -> Engine:
    """Load the model or connect to its server.

    Parameters
    ----------
    device : str, optional
        In place of the study's, where a host's GPUs are shared out.
    sharing : int
        Processes that ask one server; each takes its share of the requests under way.
    allow_code : bool
        Import and run the engine that the study names by 'module:function'.

    Raises
    ------
    CheckpointError, EngineError, StudyError
    """
    require_allowed(settings, allow_code=allow_code)
    if settings.engine is not None:
        return _own(settings.engine)
    if settings.server is not None:
        from qwenvl.engines.remote import RemoteEngine

        model = None if settings.name == "embedded" else settings.name
        each = max(1, settings.concurrency // max(1, sharing))
        return RemoteEngine(settings.server, model=model, family=settings.family, concurrency=each)
    from qwenvl.engines.local import LocalEngine

    return LocalEngine.load(
        settings.name,
        device=device or settings.device,
        dtype=settings.dtype,
        adapter=settings.adapter,
        family=settings.family,
        quantise=settings.quantise,
    )


def _own(path: str) -> Engine:
    module, _, name = path.partition(":")
    try:
        engine = getattr(import_module(module), name)()
    except (ImportError, AttributeError) as error:
        raise StudyError(f"model.engine: {path} cannot be imported on this worker: {error}") from error
    except Exception as error:  # code of others raises what it likes
        raise StudyError(f"model.engine: {path} raised {type(error).__name__}: {error}") from error
    if not isinstance(engine, Engine):
        raise StudyError(f"model.engine: {path} returned {type(engine).__name__}, not an Engine.")
    return engine

"""What a server says of the model it serves, and the family that follows from its name."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from qwenvl.errors import EngineError
from qwenvl.families import FAMILIES, ModelFamily, get_family

_STABLE = ("id", "parent", "owned_by", "meta")
# Qwen3.6 checkpoints have the model type of Qwen3.5, and both are vision-language models without saying so.
_GENERATION = re.compile(r"qwen[-_]?(?:(2\.5|2|3)[-_]?vl|(3\.[56])|vl)(?![0-9])")


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One entry of `/v1/models`."""

    name: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What stays the same when the server is started again, on whichever machine."""
    listed: bool = True
    """False where the server does not list it."""

    @property
    def fingerprint_text(self) -> str:
        """The facts as canonical JSON."""
        return json.dumps(dict(self.facts), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def choose_model(listing: object, wanted: str | None, url: str) -> ServedModel:
    """The model to ask, out of the answer of `/v1/models`.

    Raises
    ------
    EngineError
        None was wanted by name, and the server lists none or several.
    """
    data = listing.get("data") if isinstance(listing, dict) else None
    entries = {
        str(entry["id"]): entry
        for entry in (data if isinstance(data, list) else ())
        if isinstance(entry, dict) and isinstance(entry.get("id"), str)
    }
    if wanted is not None:
        entry = entries.get(wanted)
        return ServedModel(wanted, {"id": wanted} if entry is None else _facts(entry), entry is not None)
    if not entries:
        raise EngineError(f"{url} lists no model; name the one to ask (model=..., or -m on the command line)")
    if len(entries) > 1:
        names = ", ".join(list(entries)[:8]) + (", ..." if len(entries) > 8 else "")
        raise EngineError(f"{url} serves {len(entries)} models ({names}); name one (model=..., or -m)")
    name, entry = next(iter(entries.items()))
    return ServedModel(name, _facts(entry))


def served_family(served: ServedModel, wanted: str | None) -> ModelFamily:
    """The family given by name, or that which the served model's name states.

    Raises
    ------
    EngineError
        The name does not state it, or its two names disagree.
    UnknownFamilyError
        No family has the name given.
    """
    if wanted is not None:
        return get_family(wanted)
    names = [served.name, *([served.facts["root"]] if "root" in served.facts else [])]
    found = {family.name: family for family in map(family_by_name, names) if family is not None}
    if len(found) != 1:
        reason = f"its names say {' and '.join(found)}" if found else "its name does not tell"
        raise EngineError(
            f"{served.name}: the family of this served model decides what its coordinates mean, and {reason}. "
            f"Name it (family=..., or --family): {', '.join(FAMILIES)}"
        )
    return next(iter(found.values()))


def family_by_name(name: str) -> ModelFamily | None:
    """The family that a model's name states, such as 'Qwen/Qwen2.5-VL-7B-Instruct', or None."""
    last = PurePosixPath(name.casefold()).name
    match = _GENERATION.search(last)
    if match is None:
        return None
    number = match.group(1) or match.group(2)
    family = {None: "Qwen-VL", "2": "Qwen2-VL", "2.5": "Qwen2.5-VL", "3": "Qwen3-VL"}.get(number, "Qwen3.5")
    if number is not None and number.startswith("3"):
        family += "-MoE" if re.search(r"-a\d+(?:\.\d+)?b|moe", last) else ""
        family += "-Thinking" if number == "3" and "thinking" in last else ""
    return FAMILIES[family]


def served_fingerprint(served: ServedModel, settings: Sequence[object]) -> str:
    """'sha256:' and 32 hexadecimal digits over what the server tells of the model, and the engine's settings."""
    text = f"{served.fingerprint_text}\n{json.dumps(list(settings), sort_keys=True)}"
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def _facts(entry: Mapping[str, Any]) -> dict[str, Any]:
    facts = {key: entry[key] for key in _STABLE if entry.get(key) is not None}
    if isinstance(entry.get("root"), str):
        # vLLM names the model behind an alias here: a hub name, or a folder that lies elsewhere on another machine.
        root = entry["root"]
        facts["root"] = PurePosixPath(root).name if root.startswith(("/", ".", "~")) else root
    return facts

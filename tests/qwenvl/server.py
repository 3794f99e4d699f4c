"""A chat-completions server for tests, with faults on demand. Runs as a process of its own.

Its models are tiny checkpoints, answered by transformers' own `generate`, and a stub that needs no torch and answers
 from the picture's pixels. What it does next is told to it at `/control`; `/stats` says what it saw.
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import os
import subprocess
import sys
import threading
import time
import urllib.request
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np

STUB = "Qwen3-VL-stub"
SERVED = ("Qwen3-VL", "Qwen2.5-VL", "Qwen3.5")
QUIET: dict[str, Any] = {
    "plan": [],  # fault of each of the next chat requests; None is none
    "poison": None,  # [width, height, fault] of pictures that always meet a fault, unless they are plain
    "refuse": [],  # fields that are refused with 422
    "ignore": [],  # fields that are not looked at
    "key": None,  # the bearer token that is asked for
    "say": None,  # an answer in place of the model's: content, reasoning_content, finish_reason, logprob, top
    "models": None,  # entries of /v1/models; None lists the loaded ones
    "slow": 0.0,  # seconds that every answer takes longer
    "prompt_tokens": None,
}


class State:
    """What the server was told and what it saw."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.connections = self.times_told = 0
        self.told: dict[str, Any] = {}
        self.control({})

    def control(self, told: dict[str, Any]) -> None:
        with self.lock:
            self.told = QUIET | told
            self.times_told += 1
            self.now = self.most = self.answered = self.connections = 0
            self.asked: list[dict[str, Any]] = []

    def next_fault(self, size: tuple[int, int], plain: bool) -> str | None:
        with self.lock:
            poison = self.told["poison"]
            if poison is not None and tuple(poison[:2]) == size and not plain:
                return str(poison[2])
            return self.told["plan"].pop(0) if self.told["plan"] else None


class Tiny:
    """A tiny checkpoint behind `generate`."""

    def __init__(self, folder: str) -> None:
        import torch

        from qwenvl.checkpoints.loading import load_checkpoint

        torch.set_num_threads(1)
        self.checkpoint = load_checkpoint(folder)
        self.lock = threading.Lock()

    def write(self, pictures: list[Any], body: dict[str, Any], ignored: list[str]) -> dict[str, Any]:
        import torch
        import xgrammar

        from qwenvl.images.preprocess import preprocess

        told = {key: value for key, value in body.items() if key not in ignored}
        thinking = told.get("chat_template_kwargs", {}).get("enable_thinking", True)
        checkpoint, tokenizer = self.checkpoint, self.checkpoint.tokenizer
        messages = [
            message | {"content": [p if p["type"] == "text" else {"type": "image"} for p in message["content"]]}
            for message in body["messages"]
        ]
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
        )
        with self.lock, torch.inference_mode():
            patches = preprocess(pictures, checkpoint.processor)
            pad = tokenizer.convert_ids_to_tokens(checkpoint.image_token_id)
            head, *rest = text.split(pad)
            for frame, part in zip(patches.frames, rest, strict=True):
                head += pad * checkpoint.processor.image_tokens(frame) + part
            ids = tokenizer(head, add_special_tokens=False, return_tensors="pt").input_ids
            seen = {}
            if pictures:
                seen = {"pixel_values": patches.pixel_values, "image_grid_thw": patches.image_grid_thw}
            processors = []
            if "response_format" in told:
                vocabulary = checkpoint.model.get_output_embeddings().weight.shape[0]
                info = xgrammar.TokenizerInfo.from_huggingface(
                    tokenizer, vocab_size=vocabulary, stop_token_ids=list(checkpoint.eos_token_ids)
                )
                schema = json.dumps(told["response_format"]["json_schema"]["schema"])
                grammar = xgrammar.GrammarCompiler(info, max_threads=1).compile_json_schema(
                    schema, any_whitespace=False
                )
                processors.append(xgrammar.contrib.hf.LogitsProcessor(grammar))
            out = checkpoint.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                **seen,
                mm_token_type_ids=(ids == checkpoint.image_token_id).long(),
                max_new_tokens=told["max_tokens"],
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
                repetition_penalty=told.get("repetition_penalty", 1.0),
                logits_processor=processors,
            )
        written = out.sequences[0, ids.shape[1] :].tolist()
        stopped = written[-1] in checkpoint.eos_token_ids
        choice: dict[str, Any] = {"finish_reason": "stop" if stopped else "length"}
        content = tokenizer.decode(written[: len(written) - stopped], skip_special_tokens=False)
        choice["message"] = {"role": "assistant", "content": content}
        if told.get("logprobs"):
            entries = []
            for token, logits in zip(written, out.logits, strict=True):
                chances = logits[0].float().log_softmax(-1)
                values, tokens = chances.topk(min(told.get("top_logprobs", 0), len(chances)))
                top = [self._entry(i, value) for i, value in zip(tokens.tolist(), values.tolist(), strict=True)]
                entries.append(self._entry(token, float(chances[token])) | {"top_logprobs": top})
            choice["logprobs"] = {"content": entries}
        usage = {"prompt_tokens": ids.shape[1], "completion_tokens": len(written) - stopped}
        return {"choices": [choice], "usage": usage}

    def _entry(self, token: int, chance: float) -> dict[str, Any]:
        from qwenvl.scoring.confidence import token_bytes

        name = self.checkpoint.tokenizer.convert_ids_to_tokens(token)
        piece = token_bytes(name) if name is not None else b"?"
        return {"token": piece.decode("utf-8", "replace"), "bytes": list(piece), "logprob": chance}


def read_png(url: str) -> Any:
    """The RGB pixels of a data URL."""
    kind, _, data = url.partition(";base64,")
    assert kind == "data:image/png"
    return cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def stub(picture: Any) -> dict[str, Any]:
    """One box that depends on every pixel."""
    code = zlib.crc32(np.ascontiguousarray(picture))
    low, high = code % 400, 500 + code // 400 % 500
    content = json.dumps([{"bbox_2d": [low, low, high, high], "label": "nucleus"}])
    return said({"content": content})


def said(say: dict[str, Any]) -> dict[str, Any]:
    """A completion of given words, one token per character."""
    message = {key: say.get(key) for key in ("content", "reasoning_content", "reasoning") if key in say}
    choice: dict[str, Any] = {"message": message, "finish_reason": say.get("finish_reason", "stop")}
    if "logprob" in say:
        choice["logprobs"] = {"content": [{"token": c, "logprob": say["logprob"]} for c in say["content"]]}
    if "tops" in say:
        choice["logprobs"] = {
            "content": [
                {
                    "token": token,
                    "logprob": math.log(top[token]),
                    "top_logprobs": [{"token": key, "logprob": math.log(value)} for key, value in top.items()],
                }
                for token, top in say["tops"]
            ]
        }
    return {"choices": [choice], "usage": {"completion_tokens": len(say.get("content") or "")}}


class Handler(BaseHTTPRequestHandler):
    """Speaks HTTP/1.1 with connections that stay open."""

    protocol_version = "HTTP/1.1"
    state: State
    models: dict[str, Tiny | None]

    def setup(self) -> None:
        super().setup()
        with self.state.lock:
            self.state.connections += 1

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        state = self.state
        if self.path == "/stats":
            keys = ("most", "answered", "asked", "connections")
            return self.reply(200, {key: getattr(state, key) for key in keys})
        if state.told["key"] is not None and not self.allowed():
            return None
        listed = state.told["models"]
        if listed is None:
            listed = [{"id": name, "object": "model", "created": int(time.time())} for name in self.models]
        return self.reply(200, {"object": "list", "data": listed})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/control":
            self.state.control(body)
            return self.reply(200, {})
        with self.state.lock:
            self.state.now += 1
            self.state.most = max(self.state.most, self.state.now)
            began = self.state.times_told
        try:
            return self.chat(body)
        finally:
            with self.state.lock:
                # A request that a client gave up on may outlive the counting it belongs to.
                self.state.now -= began == self.state.times_told

    def chat(self, body: dict[str, Any]) -> None:
        told = self.state.told
        if told["key"] is not None and not self.allowed():
            return None
        parts = body["messages"][-1]["content"]
        pictures = [read_png(part["image_url"]["url"]) for part in parts if part["type"] == "image_url"]
        sizes = [(picture.shape[1], picture.shape[0]) for picture in pictures]
        size = sizes[-1] if sizes else (0, 0)
        fields = {key: value for key, value in body.items() if key != "messages"}
        roles = [message["role"] for message in body["messages"]]
        with self.state.lock:
            self.state.asked.append(
                {
                    "fields": fields,
                    "sizes": sizes,
                    "crcs": [zlib.crc32(np.ascontiguousarray(picture)) for picture in pictures],
                    "parts": [part.get("text", "(picture)") for part in parts],
                    "roles": roles,
                }
            )
        unknown = sorted(set(told["refuse"]) & set(body))
        if unknown:
            return self.reply(422, {"detail": f"Unexpected fields in the request: {unknown}"})
        if body["model"] not in self.models:
            return self.reply(404, {"error": {"message": f"The model `{body['model']}` does not exist."}})
        time.sleep(told["slow"])
        fault = self.state.next_fault(size, bool(pictures) and np.ptp(pictures[-1]) == 0)
        if fault is not None:
            return self.fail(fault)
        model = self.models[body["model"]]
        if told["say"] is not None:
            completion = said(told["say"])
        else:
            completion = stub(pictures[-1]) if model is None else model.write(pictures, body, told["ignore"])
        if told["prompt_tokens"] is not None:
            completion["usage"]["prompt_tokens"] = told["prompt_tokens"]
        with self.state.lock:
            self.state.answered += 1
        return self.reply(200, completion)

    def fail(self, fault: str) -> None:
        match fault:
            case "die":
                os._exit(1)
            case "drop":
                self.close_connection = True
            case "half":
                self.close_connection = True
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b'{"choices": [')
            case "delay":
                time.sleep(2.0)
                self.close_connection = True
            case "garbage":
                self.reply(200, b"<html>\xff\xfe gateway </html>")
            case "cut":
                self.reply(200, b'{"choices": [{"message": {"content": "[')
            case "odd":
                self.reply(200, {"choices": [{"message": None}]})
            case "abort":
                self.reply(200, {"choices": [{"message": {"content": "[]"}, "finish_reason": "abort"}]})
            case "429":
                self.reply(429, {"error": {"message": "slow down"}}, {"Retry-After": "0.3"})
            case "quota":
                error = {"message": "You exceeded your quota", "code": "insufficient_quota"}
                self.reply(429, {"error": error})
            case "hour":
                self.reply(503, {"error": {"message": "maintenance"}}, {"Retry-After": "3600"})
            case "within":
                self.reply(200, {"error": {"message": "no credit left", "code": 402}})
            case _:
                sent = self.headers.get("Authorization", "")
                self.reply(int(fault), {"error": {"message": f"planted fault; you sent {sent}"}})

    def allowed(self) -> bool:
        sent = self.headers.get("Authorization", "")
        if sent == f"Bearer {self.state.told['key']}":
            return True
        self.reply(401, {"error": {"message": f"wrong key: {sent}"}})
        return False

    def reply(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for key, value in ({"Content-Type": "application/json"} | (headers or {})).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error here."""


class ServerProcess:
    """The server in a process of its own.

    Parameters
    ----------
    models : dict
        Checkpoint folder by served name; None is the stub.
    port : int
        0 takes any that is free.
    """

    def __init__(self, models: dict[str, Path | None], port: int = 0) -> None:
        served = [f"{name}={folder or ''}" for name, folder in models.items()]
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--port", str(port), *served], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the server did not start"
        self.port = int(line)
        self.url = f"http://127.0.0.1:{self.port}"

    def control(self, **told: Any) -> None:
        """Forget what was seen, and do as told from now on."""
        self._call("/control", json.dumps(told).encode())

    def stats(self) -> dict[str, Any]:
        """What was seen since the last control."""
        seen: dict[str, Any] = self._call("/stats")
        return seen

    def _call(self, path: str, data: bytes | None = None) -> Any:
        with urllib.request.urlopen(self.url + path, data, timeout=30) as response:
            return json.loads(response.read())

    def stop(self) -> None:
        """Kill it and wait."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("models", nargs="+", metavar="NAME=FOLDER")
    arguments = parser.parse_args()
    named = dict(item.split("=", 1) for item in arguments.models)
    Handler.state = State()
    Handler.models = {name: Tiny(folder) if folder else None for name, folder in named.items()}
    with Server(("127.0.0.1", arguments.port), Handler) as server:
        print(server.server_port, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()

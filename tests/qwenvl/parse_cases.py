"""The malformed shapes of Qwen answers, each with what must become of it.

One table for the tests and for `benchmarks/parser.py`. Shapes that users reported upstream name their issue; the
others are plausible ones. Numbers are model numbers of a 0..1000 space; the picture is 500 x 2000 px, so that a
mixed-up axis shows.
"""

from __future__ import annotations

from dataclasses import dataclass

WIDTH, HEIGHT = 500, 2000
"""Size of the picture in px: tile x is half the model's x, tile y twice its y."""

LABELS = ("mitosis", "nucleus")


@dataclass(frozen=True)
class Case:
    """One text, and the answer it must give."""

    shape: int
    """Number in the list of shapes; 0 for a well-formed text."""
    name: str
    text: str
    status: str
    objects: tuple[tuple, ...] = ()
    """(label, number, ...) with four model numbers for a box and two for a point."""
    notes: tuple[str, ...] = ()
    task: str = "detect"
    labels: tuple[str, ...] = LABELS
    dialect: str = "json"
    finish_reason: str = "stop"
    reasoning: str | None = None
    scores: tuple[float | None, ...] | None = None
    """Scores of the objects, where the case is about them."""


A = '{"bbox_2d": [100, 200, 300, 400], "label": "mitosis"}'
B = '{"bbox_2d": [500, 600, 700, 800], "label": "nucleus"}'
BOTH = f"[{A}, {B}]"
BOX_A = ("mitosis", 100, 200, 300, 400)
BOX_B = ("nucleus", 500, 600, 700, 800)
ONE, TWO = (BOX_A,), (BOX_A, BOX_B)
V1 = "<ref>mitosis</ref><box>(100,200),(300,400)</box><ref>nucleus</ref><box>(500,600),(700,800)</box>"
V2 = (
    "<|object_ref_start|>mitosis<|object_ref_end|><|box_start|>(100,200),(300,400)<|box_end|>"
    "<|object_ref_start|>nucleus<|object_ref_end|><|box_start|>(500,600),(700,800)<|box_end|>"
)
POINTS = (("mitosis", 100, 200), ("nucleus", 500, 600))


def _with(bbox: str, label: str = '"mitosis"') -> str:
    """A list whose first object has this `bbox_2d` and label, and whose second is sound."""
    return f'[{{"bbox_2d": {bbox}, "label": {label}}}, {B}]'


CASES: tuple[Case, ...] = (
    Case(0, "plain list", BOTH, "ok", TWO),
    Case(0, "compact list", BOTH.replace(" ", ""), "ok", TWO),
    Case(0, "fenced list", f"```json\n{BOTH}\n```", "ok", TWO, ("fence",)),
    Case(0, "empty list", "[]", "empty"),
    Case(0, "fenced empty list", "```json\n[]\n```", "empty", notes=("fence",)),
    Case(1, "preamble and fence", f"Here are the objects:\n\n```json\n{BOTH}\n```", "repaired", TWO,
         ("fence", "prose")),
    Case(2, "lone closing fence (roboflow/inference#2921)", f"{BOTH}\n```", "repaired", TWO, ("fence_open",)),
    Case(2, "lone opening fence", f"```json\n{BOTH}", "ok", TWO, ("fence",)),
    Case(3, "trailing prose with [1]", f"{BOTH}\n\nAs seen in [1].", "repaired", TWO, ("prose", "merged")),
    Case(3, "trailing prose", f"{BOTH}\nTwo objects were found.", "repaired", TWO, ("prose",)),
    Case(4, "single quotes", BOTH.replace('"', "'"), "repaired", TWO, ("quotes",)),
    Case(5, "floats", _with("[100.0, 200.5, 300.0, 400.25]"), "ok", (("mitosis", 100, 200.5, 300, 400.25), BOX_B)),
    Case(5, "numbers as strings", _with('["100", "200", "300", "400"]'), "repaired", TWO, ("strings",)),
    Case(6, "reversed corners", _with("[300, 400, 100, 200]"), "repaired", TWO, ("corners:1",)),
    Case(7, "cut inside a box", f'[{A}, {{"bbox_2d": [500, 600, 70', "truncated", ONE),
    Case(7, "cut inside a box at the limit", f'[{A}, {{"bbox_2d": [500, 60', "truncated", ONE,
         finish_reason="length"),
    Case(7, "cut inside a label", f'[{A}, {{"bbox_2d": [500, 600, 700, 800], "label": "nucl', "truncated", ONE),
    Case(7, "cut between objects", f"[{A},", "truncated", ONE),
    Case(7, "cut inside a fence", f"```json\n[\n  {A},\n  {{", "truncated", ONE, ("fence",)),
    Case(7, "cut before any object", "[", "truncated"),
    Case(8, "trailing comma", f"[{A}, {B},]", "repaired", TWO, ("commas",)),
    Case(8, "end of turn left in", f"{BOTH}<|im_end|>", "ok", TWO),
    Case(8, "two end tokens left in", f"{BOTH}<|im_end|>\n<|endoftext|>", "ok", TWO),
    Case(9, "bracket in prose before", f"[tile 3]: {BOTH}", "repaired", TWO, ("prose",)),
    Case(9, "range in prose before", f"Coordinates lie in [0, 1000): {BOTH}", "repaired", TWO,
         ("syntax", "prose", "merged")),
    Case(9, "brackets in reasoning", f"<think>Look at [12, 40] in [tile 3].</think>\n\n{BOTH}", "ok", TWO,
         reasoning="Look at [12, 40] in [tile 3]."),
    Case(9, "reasoning opened by the prompt", f"A draft: [{A}].\n</think>\n{BOTH}", "ok", TWO,
         reasoning=f"A draft: [{A}]."),
    Case(9, "two closing marks", f"<think>a</think> wait [{A}] </think>{BOTH}", "ok", TWO,
         reasoning=f"a</think> wait [{A}]"),
    Case(9, "reasoning never closed", f"<think>I see [{A}] and", "truncated", notes=("thinking",),
         reasoning=f"I see [{A}] and"),
    Case(10, "two fenced blocks", f"```json\n[{A}]\n```\n```json\n[{B}]\n```", "repaired", TWO, ("fence", "merged")),
    Case(10, "two empty lists (roboflow/inference#2930)", "[]\n[]", "empty", notes=("merged",)),
    Case(10, "empty list, then objects", f"[]\n{BOTH}", "repaired", TWO, ("merged",)),
    Case(10, "empty list amid words", "No object was found: []", "empty", notes=("prose",)),
    Case(10, "empty list that the words deny", "There are two mitoses: []", "failed", notes=("prose",)),
    Case(10, "empty list, then tags", f"[]\n{V1}", "repaired", TWO, ("dialect:tags_v1",)),
    Case(11, "single object (roboflow/inference#2930)", A, "repaired", ONE, ("single",)),
    Case(11, "single object without label", '{"bbox_2d": [100, 200, 300, 400]}', "repaired", ONE,
         ("single", "label:assumed:1"), labels=("mitosis",)),
    Case(12, "JSON Lines", f"{A}\n{B}", "repaired", TWO, ("lines",)),
    Case(12, "JSON Lines in a fence", f"```json\n{A}\n{B}\n```", "repaired", TWO, ("lines", "fence")),
    Case(13, "no comma between objects", f"[{A} {B}]", "repaired", TWO, ("commas",)),
    Case(13, "no comma between keys", BOTH.replace('], "', '] "'), "repaired", TWO, ("commas",)),
    Case(14, "no opening bracket", f"{A}, {B}]", "repaired", TWO, ("brackets", "lines")),
    Case(14, "no inner bracket", BOTH.replace("400],", "400,"), "repaired", TWO, ("brackets", "commas")),
    Case(14, "no brace at the end of an object", BOTH.replace('"mitosis"}', '"mitosis"'), "repaired", TWO,
         ("brackets", "commas")),
    Case(14, "no brace at the start of an object", "[" + BOTH[2:], "repaired", TWO, ("brackets",)),
    Case(14, "neither bracket nor brace at the start", BOTH[2:], "repaired", TWO, ("brackets", "lines")),
    Case(14, "one bracket too many", BOTH.replace("400],", "400]],"), "repaired", TWO, ("brackets",)),
    Case(14, "double braces", f"[{{{A}}}, {{{B}}}]", "repaired", TWO, ("brackets",)),
    Case(14, "no closing bracket", BOTH[:-1], "truncated", TWO),
    Case(15, "bbox", BOTH.replace("bbox_2d", "bbox"), "repaired", TWO, ("keys",)),
    Case(15, "box_2d", BOTH.replace("bbox_2d", "box_2d"), "repaired", TWO, ("keys",)),
    Case(15, "bounding_box", BOTH.replace("bbox_2d", "bounding_box"), "repaired", TWO, ("keys",)),
    Case(15, "Position (Liuziyu77/Visual-RFT#29)", BOTH.replace("bbox_2d", "Position"), "repaired", TWO, ("keys",)),
    Case(15, "upper-case keys", BOTH.replace("bbox_2d", "BBOX_2D").replace("label", "LABEL"), "repaired", TWO,
         ("keys",)),
    Case(15, "other label keys", f'[{A.replace("label", "name")}, {B.replace("label", "category")}]', "repaired", TWO,
         ("keys",)),
    Case(15, "wrapped in an object", f'{{"objects": {BOTH}}}', "repaired", TWO, ("wrapped",)),
    Case(15, "empty and wrapped", '{"objects": []}', "empty"),
    Case(15, "corners by name", '[{"x1": 100, "y1": 200, "x2": 300, "y2": 400, "label": "mitosis"}]', "repaired", ONE,
         ("keys",)),
    Case(15, "lists under labels", '{"mitosis": [[100, 200, 300, 400]], "nucleus": [[500, 600, 700, 800]]}',
         "repaired",
         TWO, ("wrapped", "bare")),
    Case(16, "no label, several asked for", '[{"bbox_2d": [100, 200, 300, 400]}]', "repaired",
         (("unlabelled", 100, 200, 300, 400),), ("label:missing:1",)),
    Case(16, "no label, one asked for", '[{"bbox_2d": [100, 200, 300, 400]}]', "repaired", ONE, ("label:assumed:1",),
         labels=("mitosis",)),
    Case(17, "points", '[{"point_2d": [100, 200], "label": "mitosis"}, {"point_2d": [500, 600], "label": "nucleus"}]',
         "ok", POINTS, task="point"),
    Case(17, "points where boxes were asked for", '[{"point_2d": [100, 200], "label": "mitosis"}]', "repaired",
         POINTS[:1], ("kind:1",)),
    Case(17, "boxes where points were asked for", f"[{A}]", "repaired", ONE, ("kind:1",), task="point"),
    Case(18, "curly quotes", BOTH.replace('{"', "{“").replace('"', "”"), "repaired", TWO, ("quotes",)),
    Case(18, "curly quotes inside a label", '[{"bbox_2d": [100, 200, 300, 400], "label": "“mitosis”"}]', "ok", ONE),
    Case(19, "full-width colons and commas", BOTH.replace(": ", "：").replace(", ", "，"), "repaired", TWO,
         ("punctuation",)),
    Case(19, "full-width brackets and digits",
         "［｛＂bbox_2d＂：［１００，２００，３００，４００］，＂label＂：＂mitosis＂｝］",
         "repaired", ONE, ("punctuation", "quotes")),
    Case(20, "Chinese keys", BOTH.replace("bbox_2d", "边界框").replace("label", "标签"), "repaired", TWO, ("keys",)),
    Case(20, "other Chinese keys", BOTH.replace("bbox_2d", "坐标").replace("label", "类别"),
         "repaired", TWO, ("keys",)),
    Case(20, "Chinese point key", '[{"点": [100, 200], "标签": "mitosis"}]', "repaired", POINTS[:1], ("keys",),
         task="point"),
    Case(21, "Qwen-VL tags from a JSON family", V1, "repaired", TWO, ("dialect:tags_v1",)),
    Case(21, "Qwen-VL tags", V1, "ok", TWO, dialect="tags_v1"),
    Case(21, "Qwen-VL tags, two boxes of one ref",
         "<ref>mitosis</ref><box>(100,200),(300,400)</box><box>(500,600),(700,800)</box>", "ok",
         (BOX_A, ("mitosis", 500, 600, 700, 800)), dialect="tags_v1"),
    Case(21, "Qwen-VL tags amid prose", "I see a <ref> mitosis</ref><box>(100,200),(300,400)</box> here.", "ok", ONE,
         dialect="tags_v1"),
    Case(21, "Qwen-VL quad", "<ref>mitosis</ref><quad>(100,250),(200,200),(300,350),(150,400)</quad>", "ok", ONE,
         dialect="tags_v1"),
    Case(21, "Qwen-VL tags cut off", V1[:-14], "truncated", ONE, dialect="tags_v1"),
    Case(21, "JSON from a tag family", BOTH, "repaired", TWO, ("dialect:json",), dialect="tags_v1"),
    Case(22, "Qwen2-VL tags from a JSON family", V2, "repaired", TWO, ("dialect:tags_v2",)),
    Case(22, "Qwen2-VL tags", V2, "ok", TWO, dialect="tags_v2"),
    Case(22, "Qwen2-VL tags, end of turn", f"{V2}<|im_end|>", "ok", TWO, dialect="tags_v2"),
    Case(22, "Qwen2-VL tags lost by the tokenizer", "mitosis(100,200),(300,400)nucleus(500,600),(700,800)",
         "repaired",
         TWO, ("dialect:pairs",), dialect="tags_v2"),
    Case(22, "damaged pair (likaixin2000/ScreenSpot-Pro#7)", "<|box_start|>(501,10), (995987)<|box_end|>", "failed",
         notes=("dropped:1:numbers",), dialect="tags_v2"),
    Case(22, "damaged pair beside a sound box", f"{V2}<|box_start|>(501,10), (995987)<|box_end|>", "repaired", TWO,
         ("dropped:1:numbers",), dialect="tags_v2"),
    Case(23, "XML points", '<points x1="100" y1="200" x2="300" y2="400" alt="mitosis">mitosis</points>', "repaired",
         (("mitosis", 100, 200), ("mitosis", 300, 400)), ("dialect:xml",), task="point"),
    Case(23, "XML points, x2 without x1", '<points x2="100" y2="200" alt="mitosis">mitosis</points>', "repaired",
         POINTS[:1], ("dialect:xml",), task="point"),
    Case(23, "XML points, one axis missing", '<points x1="100" y1="200" x2="300" alt="mitosis">mitosis</points>',
         "repaired", POINTS[:1], ("dialect:xml", "dropped:1:numbers"), task="point"),
    Case(23, "single XML point", '<point x="100" y="200" alt="mitosis">mitosis</point>', "repaired", POINTS[:1],
         ("dialect:xml",), task="point"),
    Case(23, "XML points cut off", '<points x1="100" y1="200" x2="300" y2="40', "truncated", task="point"),
    Case(24, "list of lists", "[[100, 200, 300, 400]]", "repaired", ONE, ("bare", "label:assumed:1"),
         labels=("mitosis",)),
    Case(24, "list of lists with labels", '[[100, 200, 300, 400, "mitosis"], [500, 600, 700, 800, "nucleus"]]',
         "repaired", TWO, ("bare",)),
    Case(24, "lone list of numbers", "[100, 200, 300, 400]", "repaired", ONE, ("bare", "label:assumed:1"),
         labels=("mitosis",)),
    Case(24, "list of lists cut off", "[[100, 200, 300, 400], [500, 600, 70", "truncated", ONE,
         ("bare", "label:assumed:1"), labels=("mitosis",)),
    Case(25, "unescaped inner quotes", _with("[100, 200, 300, 400]", '"a "dark" cell"'), "repaired",
         (('a "dark" cell', 100, 200, 300, 400), BOX_B), ("quotes", "label:unknown:1")),
    Case(25, "apostrophe in single quotes", "[{'bbox_2d': [100, 200, 300, 400], 'label': 'Paneth's cell'}]",
         "repaired",
         (("Paneth's cell", 100, 200, 300, 400),), ("quotes", "label:unknown:1")),
    Case(25, "label not closed", BOTH.replace('mitosis"', "mitosis"), "repaired", TWO, ("quotes",)),
    Case(25, "leading zeros", _with("[0100, 0200, 0300, 0400]"), "repaired", TWO, ("numbers",)),
    Case(25, "escaped quotes", BOTH.replace('"', '\\"'), "repaired", TWO, ("escaped",)),
    Case(25, "JSON in a JSON string", '"' + BOTH.replace('"', '\\"') + '"', "repaired", TWO, ("escaped",)),
    Case(25, "Markdown escape in a key", BOTH.replace("bbox_2d", "bbox\\_2d"), "repaired", TWO, ("syntax",)),
    Case(25, "keys without quotes", BOTH.replace('"bbox_2d"', "bbox_2d").replace('"label"', "label"), "repaired", TWO,
         ("quotes",)),
    Case(25, "comment", f"[{A}, // the first\n {B}]", "repaired", TWO, ("syntax",)),
    Case(25, "two objects in one brace", f"[{A[:-1]}, {B[1:]}]", "repaired", TWO, ("keys",)),
    Case(25, "list ending in an ellipsis", f"[{A}, {B}, ...]", "truncated", TWO, ("ellipsis",)),
    Case(25, "YAML", "- bbox_2d: [100, 200, 300, 400]\n  label: mitosis\n", "repaired", ONE, ("prose", "salvaged")),
    Case(26, "prose: no mitoses", "There are no mitoses in this image.", "empty", notes=("prose",),
         labels=("mitosis",)),
    Case(26, "prose: none of both", "No mitosis or nucleus is visible.", "empty", notes=("prose",)),
    Case(26, "prose: there are none", "There are none.", "empty", notes=("prose",)),
    Case(26, "prose: only one of two denied", "There are no mitoses in this image.", "failed", notes=("prose",)),
    Case(26, "prose: denied with a but", "No mitoses, but the picture is blurry.", "failed", notes=("prose",),
         labels=("mitosis",)),
    Case(26, "prose: something else denied", "There are no dogs in this image.", "failed", notes=("prose",)),
    Case(26, "prose: something is there", "There are two mitoses at the left.", "failed", notes=("prose",)),
    Case(27, "nested box", _with("[[100, 200, 300, 400]]"), "repaired", TWO, ("nested",)),
    Case(27, "nested corners", _with("[[100, 200], [300, 400]]"), "repaired", TWO, ("nested",)),
    Case(27, "several boxes in one object",
         '[{"bbox_2d": [[100, 200, 300, 400], [500, 600, 700, 800]], "label": "mitosis"}]',
         "repaired", (BOX_A, ("mitosis", 500, 600, 700, 800)), ("nested",)),
    Case(28, "three numbers", _with("[100, 200, 300]"), "repaired", (BOX_B,), ("dropped:1:numbers",)),
    Case(28, "five numbers", _with("[100, 200, 300, 400, 5]"), "repaired", (BOX_B,), ("dropped:1:numbers",)),
    Case(28, "three numbers everywhere", '[{"bbox_2d": [100, 200, 300], "label": "mitosis"}]', "failed",
         notes=("dropped:1:numbers",)),
    Case(29, "null", _with("[100, null, 300, 400]"), "repaired", (BOX_B,), ("dropped:1:numbers",)),
    Case(29, "NaN", _with("[100, NaN, 300, 400]"), "repaired", (BOX_B,), ("dropped:1:numbers",)),
    Case(29, "Infinity", _with("[100, 200, Infinity, 400]"), "repaired", (BOX_B,), ("dropped:1:numbers",)),
    Case(29, "no box at all", _with("null"), "repaired", (BOX_B,), ("dropped:1:numbers",)),
    Case(29, "huge number", _with(f"[100, 200, {'9' * 5000}, 400]"), "repaired", (BOX_B,), ("dropped:1:numbers",)),
    Case(30, "box as a string", _with('"100, 200, 300, 400"'), "repaired", TWO, ("strings",)),
    Case(30, "box as a bracketed string", _with('"[100, 200, 300, 400]"'), "repaired", TWO, ("strings",)),
    Case(30, "box as words", _with('"upper left"'), "repaired", (BOX_B,), ("dropped:1:numbers",)),
    Case(30, "box as a dict", _with('{"x1": 100, "y1": 200, "x2": 300, "y2": 400}'), "repaired", TWO, ("keys",)),
    Case(30, "dict of something else (modelscope/ms-swift#8063)", _with('{"language": "en", "text": "x"}'),
         "repaired",
         (BOX_B,), ("dropped:1:numbers",)),
    Case(30, "only a dict of something else (modelscope/ms-swift#8063)",
         '[{"bbox_2d": {"language": "en"}, "label": "mitosis"}]', "failed", notes=("dropped:1:numbers",)),
    Case(30, "tags inside JSON (modelscope/ms-swift#8063)",
         '[{"label": "mitosis", "bbox": <|box_start|>(100,200),(300,400)<|box_end|>}]', "repaired", ONE,
         ("syntax", "strings", "keys")),
    Case(30, "tags inside JSON of a tag family",
         '[{"label": "mitosis", "bbox": <|box_start|>(100,200),(300,400)<|box_end|>}]', "repaired", ONE,
         ("syntax", "dialect:json", "strings", "keys"), dialect="tags_v2"),
    Case(31, "strings among the objects", f'["mitosis", {A}, "nucleus", {B}]', "repaired", TWO,
         ("dropped:2:not_object",)),
    Case(31, "list as label", _with("[100, 200, 300, 400]", '["mitosis", "cell"]'), "repaired", TWO,
         ("label:first:1",)),
    Case(31, "number as label", _with("[100, 200, 300, 400]", "7"), "repaired", (("7", 100, 200, 300, 400), BOX_B),
         ("label:unknown:1",)),
    Case(32, "a little outside", _with("[-10, 200, 300, 1015]"), "repaired", (("mitosis", 0, 200, 300, 1000), BOX_B),
         ("out_of_range:1", "clipped:1")),
    Case(32, "far outside", _with("[100, 200, 300, 1100]"), "repaired", (BOX_B,),
         ("out_of_range:1", "dropped:1:outside")),
    Case(32, "all far outside", '[{"bbox_2d": [1100, 1200, 1300, 1400], "label": "mitosis"}]', "failed",
         notes=("out_of_range:1", "dropped:1:outside")),
    Case(32, "no area", _with("[100, 200, 100, 400]"), "repaired", (BOX_B,), ("dropped:1:zero_area",)),
    Case(33, "repeated box (QwenLM/Qwen3-VL#1916)", f"[{A}, {B}, {B}, {B}]", "repaired", TWO, ("loop",)),
    Case(33, "loop to the limit (QwenLM/Qwen3-VL#1611)", f"[{A}, {B}, {B}, {B}, {B[:20]}", "truncated", TWO,
         ("loop",),
         finish_reason="length"),
    Case(33, "loop seen by the engine", f"[{A}, {B}, {B}]", "truncated", TWO, ("loop",), finish_reason="loop"),
    Case(33, "repeated farther apart", f"[{A}, {B}, {A}]", "repaired", TWO, ("duplicates:1",)),
    Case(34, "confidence", f'[{A[:-1]}, "confidence": 0.87}}, {B}]', "ok", TWO, scores=(0.87, None)),
    Case(34, "confidence in percent", f'[{A[:-1]}, "confidence": "87%"}}, {B}]', "ok", TWO, scores=(0.87, None)),
    Case(34, "confidence beyond 1", f'[{A[:-1]}, "score": 7}}, {B}]', "ok", TWO, scores=(None, None)),
    Case(35, "null label, several asked for", _with("[100, 200, 300, 400]", "null"), "repaired",
         (("unlabelled", 100, 200, 300, 400), BOX_B), ("label:missing:1",)),
    Case(35, "null label, one asked for", '[{"bbox_2d": [100, 200, 300, 400], "label": null}]', "repaired", ONE,
         ("label:assumed:1",), labels=("mitosis",)),
    Case(35, "Python None as label", "[{'bbox_2d': [100, 200, 300, 400], 'label': None}]", "repaired", ONE,
         ("quotes", "words", "label:assumed:1"), labels=("mitosis",)),
    Case(0, "empty text", "", "failed"),
    Case(0, "empty text at the limit", "", "truncated", finish_reason="length"),
    Case(0, "empty list at the limit", "[]", "truncated", finish_reason="length"),
    Case(0, "refusal", "I'm sorry, but I can't provide a medical diagnosis.", "refused", notes=("prose",)),
    Case(0, "refusal with curly quotes", "I’m sorry, but I can’t assist with that.", "refused", notes=("prose",)),
    Case(0, "refusal in Chinese", "抱歉，我无法分析医学图像。", "refused", notes=("prose",)),
    Case(0, "refusal, then an empty list", "I cannot identify cells in medical images.\n[]", "refused",
         notes=("prose",)),
    Case(0, "noise", "!!!!!!!!!!!!!!!!", "failed"),
    Case(0, "engine error", BOTH, "failed", finish_reason="error"),
    Case(0, "labels in other forms", f'[{A.replace("mitosis", "Mitoses")}, {B.replace("nucleus", "Nuclei 2")}]',
         "ok", TWO),
    Case(0, "label nobody asked for", f"[{A}]", "repaired", ONE, ("label:unknown:1",), labels=("gland", "vessel")),
)  # fmt: skip
"""Every shape, in the order of the list."""

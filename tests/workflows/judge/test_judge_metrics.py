"""Text metrics, numbers with units, and agreement, against numbers from elsewhere."""

from __future__ import annotations

import json

import numpy as np
import pytest
from run_helpers import MemorySlide, request_of
from typer.testing import CliRunner

from qwenvl.engines.fake import FakeEngine
from qwenvl.request import Task
from workflows.commands import app
from workflows.errors import JudgeError
from workflows.science.judge import (
    JudgedItem,
    cohen_kappa,
    compare_quantities,
    fleiss_kappa,
    paired,
    read_items,
    read_quantities,
    rouge_l,
    score_texts,
    spearman,
    token_f1,
    with_references,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12 um", [(12e-6, "length")]),
        ("12 µm and 12 μm", [(12e-6, "length")] * 2),
        ("1,200.5 um, 0,5 mm", [(1200.5e-6, "length"), (0.5e-3, "length")]),
        ("5 per 2.37 mm²; 2.37 mm2", [(5, ""), (2.37e-6, "area"), (2.37e-6, "area")]),
        ("Ki-67 is 30 %, CO2 at 5%", [(0.3, "share"), (0.05, "share")]),
        ("-2.5 mm to 1.2 x 10^3 um", [(-2.5e-3, "length"), (1.2e-3, "length")]),
        ("10 x 12 um at 20x", [(10, ""), (12e-6, "length"), (20, "times")]),
        ("10 mg/ml for 5 min", [(10.0, "mass per volume"), (300, "time")]),
        ("five", []),
    ],
)
def test_quantities(text, expected):
    found = read_quantities(text)
    assert [each.kind for each in found] == [kind for _, kind in expected]
    assert [each.value for each in found] == pytest.approx([value for value, _ in expected])


@pytest.mark.parametrize(
    ("reference", "answer", "right", "wrong_unit"),
    [
        ("1.2 mm", "1200 um", 1, 0),
        ("5 mm", "5 um", 0, 1),
        ("5 mm", "5", 0, 1),
        ("5 mm", "6 mm", 0, 0),
        ("100 um", "100.9 um", 1, 0),
        ("100 um", "102 um", 0, 0),
        ("3 and 3", "3", 1, 0),
        ("30 %", "0.3", 0, 0),
        ("0", "0", 1, 0),
    ],
)
def test_numbers_agree_with_their_units(reference, answer, right, wrong_unit):
    match = compare_quantities(reference, answer)
    assert (match.right, match.wrong_unit) == (right, wrong_unit)


def _lcs(a: list[str], b: list[str]) -> int:
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1, j + 1] = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
    return int(table[-1, -1])


def test_rouge_l_is_that_of_the_plain_table():
    rng = np.random.default_rng(0)
    for _ in range(200):
        a, b = (list(rng.choice(list("abcde"), rng.integers(0, 90))) for _ in range(2))
        expected = 2 * _lcs(a, b) / (len(a) + len(b)) if a or b else 1.0
        assert rouge_l(" ".join(a), " ".join(b)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("reference", "answer", "f1"),
    [("the cat sat", "sat the cat", 1.0), ("a a b", "a", 0.5), ("x", "y", 0.0), ("", "", 1.0), ("x", "", 0.0)],
)
def test_token_f1(reference, answer, f1):
    assert token_f1(reference, answer) == pytest.approx(f1)


def test_missing_answers_count_as_wrong():
    items = [
        JudgedItem("1", "", "Two nuclei.", "two nuclei"),
        JudgedItem("2", "", None, "none"),
        JudgedItem("3", "", "x"),
    ]
    scores = score_texts(items)
    assert (scores.items, scores.unanswered, scores.without_reference) == (2, 1, 1)
    assert scores.exact.value == 0.5
    assert scores.token_f1.value == 0.5
    with pytest.raises(JudgeError, match="No item has a reference"):
        score_texts([JudgedItem("1", "", "x")])


def test_bleu_and_chrf_are_sacrebleus():
    sacrebleu = pytest.importorskip("sacrebleu", reason="BLEU and chrF need sacrebleu")
    pairs = [("the cat sat on the mat today", "the cat sat on a mat today"), ("a small nucleus", "a small nuclei")]
    scores = score_texts([JudgedItem(str(n), "", answer, reference) for n, (reference, answer) in enumerate(pairs)])
    hypotheses, references = [a for _, a in pairs], [[r for r, _ in pairs]]
    assert scores.bleu == pytest.approx(sacrebleu.corpus_bleu(hypotheses, references).score)
    assert scores.chrf == pytest.approx(sacrebleu.corpus_chrf(hypotheses, references).score)
    assert scores.signature is not None


def test_cohens_kappa_is_that_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics", reason="the peer is scikit-learn")
    rng = np.random.default_rng(1)
    a = rng.integers(1, 6, 80)
    b = np.clip(a + rng.integers(-1, 2, 80), 1, 5)
    for weights, theirs in (("none", None), ("linear", "linear"), ("quadratic", "quadratic")):
        ours = cohen_kappa(a.tolist(), b.tolist(), weights=weights)
        assert ours.value == pytest.approx(metrics.cohen_kappa_score(a, b, weights=theirs))
        assert ours.low < ours.value < ours.high


def test_fleiss_kappa_of_the_published_example():
    """The table of Fleiss 1971 as worked through in textbooks: 10 items, 14 raters, kappa 0.210."""
    table = [
        [0, 0, 0, 0, 14],
        [0, 2, 6, 4, 2],
        [0, 0, 3, 5, 6],
        [0, 3, 9, 2, 0],
        [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0],
        [3, 2, 6, 3, 0],
        [2, 5, 3, 2, 2],
        [6, 5, 2, 1, 0],
        [0, 2, 2, 3, 7],
    ]
    ratings = [[category for category, n in enumerate(row) for _ in range(n)] for row in table]
    assert fleiss_kappa(ratings).value == pytest.approx(0.210, abs=5e-4)
    with pytest.raises(JudgeError, match="equally many"):
        fleiss_kappa([[1, 2], [1, 2, 3]])


def test_spearman_is_that_of_scipy():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(2)
    a = rng.integers(0, 6, 50)
    b = a + rng.normal(0, 2, 50)
    ours = spearman(a.tolist(), b.tolist())
    assert ours.value == pytest.approx(spearmanr(a, b).statistic)
    assert ours.low < ours.value < ours.high


def test_agreement_that_is_undefined_is_not_a_number():
    assert cohen_kappa(["a"] * 5, ["a"] * 5).value is None
    assert spearman([1, 1, 1], [1, 2, 3]).value is None
    assert fleiss_kappa([["a", "a"]] * 4).value is None
    with pytest.raises(JudgeError, match="same items"):
        cohen_kappa([1], [1, 2])


def test_items_of_every_kind_of_file(tmp_path):
    rows = [{"id": "7", "question": "q", "answer": "x", "reference": "y"}, {"id": "8", "answer": {"a": 1}}]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.csv").write_text("id,question,said\n7,q,x\n8,,\n")
    assert read_items(tmp_path / "a.jsonl") == read_items(tmp_path / "a.json")
    assert read_items(tmp_path / "a.jsonl")[1].answer == '{"a": 1}'
    table = read_items(tmp_path / "a.csv", {"answer": "said"})
    assert [item.answer for item in table] == ["x", None]
    joined, missing = with_references(table, read_items(tmp_path / "a.json"))
    assert [item.reference for item in joined] == ["y", '{"a": 1}']
    assert missing == 0


@pytest.mark.parametrize(
    ("name", "content", "columns", "message"),
    [
        ("a.csv", "id,said\n1,x\n", None, "neither 'answer' nor 'reference'"),
        ("a.csv", "id,said\n1,x\n", {"answer": "told"}, "no column 'told'"),
        ("a.jsonl", '{"id": 1, "answer": "x"}\n{"id": 1, "answer": "y"}\n', None, "twice"),
        ("a.jsonl", "{", None, "cannot be read as JSONL"),
        ("a.json", '{"a": 1}', None, "no list of rows"),
        ("a.txt", "x", None, "should end in"),
        ("a.jsonl", "", None, "holds no answer"),
    ],
)
def test_files_that_are_no_answers(tmp_path, name, content, columns, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(JudgeError, match=message):
        read_items(tmp_path / name, columns)


def test_other_questions_are_not_compared():
    with pytest.raises(JudgeError, match="another question"):
        paired([JudgedItem("1", "how many?", "x")], [JudgedItem("1", "how large?", "y")])
    with pytest.raises(JudgeError, match="no id in common"):
        paired([JudgedItem("1")], [JudgedItem("2")])


def test_items_of_a_run(tmp_path):
    from workflows.run.slide import run_slide

    slide = MemorySlide(600, 500)
    run_slide(slide, request_of(Task.CLASSIFY), FakeEngine(), tmp_path / "run")
    items = read_items(tmp_path / "run")
    assert items[0].id.startswith("tile-")
    assert {item.answer for item in items} <= {"tumour", "stroma", "necrosis"}
    assert "Choose one of" in items[0].question
    rows = [{"id": item.id, "reference": "stroma"} for item in items]
    (tmp_path / "truth.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = CliRunner().invoke(
        app, ["judge", "text", str(tmp_path / "run"), "--reference", str(tmp_path / "truth.jsonl"), "--json"]
    )
    share = sum(item.answer == "stroma" for item in items) / len(items)
    assert json.loads(said.output)["text"]["exact"]["value"] == pytest.approx(share)

"""The command: its forms of output, and mistakes in one sentence."""

import csv
import io
import json
import re

import commands
import pytest
from etils import epath
from made_records import finetuned

from experiments.tables import __main__ as command
from experiments.tables.__main__ import tables
from experiments.tables.target import TABLES, targets_of
from train_jax.errors import UserError
from train_jax.record import write


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for seed, value in enumerate((0.9320, 0.9330, 0.9316)):
        write(finetuned(value, seed=seed), epath.Path(root / f"run{seed}" / "results"))
    return str(root)


def test_without_a_name_all_tables_are_listed():
    lines = tables([]).splitlines()
    assert [line.split()[0] for line in lines] == list(TABLES)
    assert "36 figures" in lines[0]


def test_markdown_has_measured_and_published_and_what_is_missing(results):
    text = tables(["vit_table2", f"--results={results}"])
    assert "| 93.22 ± 0.07 [3] = 93.25 ± 0.05 |" in text
    (row,) = (line for line in text.splitlines() if line.startswith("| CIFAR-100 |"))
    assert row.startswith("| CIFAR-100 | 94.55 ± 0.04 | 93.90 ± 0.05 | 93.22")
    assert "Of 36 figures: 1 within noise, 34 not run, 1 not made here." in text
    assert "(88.5)" in text
    assert (
        "pretrain.py:H/14,jft300m --workdir=PRETRAINED_1` | 1 | 1 | 2,500 TPUv3-core-days" in text
    )
    memory = tables(["pose_table3"])
    assert "| CPN, pre-trained | 52.1* | 40.1* |" in memory


def test_figures_without_a_common_form_are_a_list():
    text = tables(["vit_extra"])
    assert "| ViT-B/16: CIFAR-10, 500 steps | 98.59 |" in text
    assert max(line.count("|") for line in text.splitlines()) == 5


def test_notes_say_what_they_are_about():
    text = tables(["vit_open"])
    assert (
        "\n* ViT, four other digits, five labels a class: fine-tuned from masked patches: " in text
    )
    # The name of the only column would say nothing.
    assert "\n* accuracy: " not in text


def test_several_directories_are_read_together(results):
    some = f"{results}/run0,{results}/run1/results"
    assert " [2] = 93.25" in tables(["vit_table2", f"--results={some}"])


def test_latex_is_escaped(results):
    text = tables(["vit_table2", f"--results={results}", "--format=latex"])
    assert r"93.22 $\pm$ 0.07 [3] = 93.25 $\pm$ 0.05" in text
    body = text[text.index(r"\begin{tabular}{lrrrrrr}") : text.index(r"\end{tabular}")]
    assert body.count(r"\\") == 9
    assert "±" not in body
    figure = tables(["pose_figure5", "--format=latex"])
    assert r"0.1 \% of S1" in figure


def test_json_and_csv_have_a_figure_each(results):
    value = json.loads(tables(["vit_table2", f"--results={results}", "--format=json"]))
    lines = list(
        csv.DictReader(io.StringIO(tables(["vit_table2", f"--results={results}", "--format=csv"])))
    )
    assert len(value["figures"]) == len(lines) == 36
    (found,) = (f for f in value["figures"] if f["runs"] == 3)
    assert (found["row"], found["column"]) == ("CIFAR-100", "ViT-L/16 (I21k)")
    assert found["measured"] == pytest.approx(93.22)
    assert (found["published"], found["published_std"]) == (93.25, 0.05)
    assert (found["verdict"], found["status"]) == ("within noise", "printed")
    assert {line["verdict"] for line in lines} == {"within noise", "not run", "not made here"}
    first = value["missing"][0]
    assert (first["cost_per_run"], first["unit"]) == (2500, "TPUv3-core-days")


def test_the_keys_of_json_are_those_that_the_command_documents():
    value = json.loads(tables(["vit_table2", "--format=json"]))
    assert list(value) == ["format_version", "table", "title", "figures", "missing"]
    assert (value["format_version"], value["table"]) == (1, "vit_table2")
    documented = " ".join((command.__doc__ or "").partition("The JSON object has")[2].split())
    figures, _, missing = documented.partition(" missing what to launch")
    for name, text in (("figures", figures), ("missing", missing)):
        keys = set(value[name][0])
        assert all(set(one) == keys for one in value[name])
        assert keys <= set(re.findall(r"\w+", text))
    lines = csv.DictReader(io.StringIO(tables(["vit_table2", "--format=csv"])))
    assert lines.fieldnames == ["table", *value["figures"][0]]


@pytest.mark.parametrize("form", ["markdown", "latex", "json", "csv"])
@pytest.mark.parametrize("name", TABLES)
def test_every_table_has_every_form_without_results(name, form):
    text = tables([name, f"--format={form}"])
    figures = len(targets_of(name))
    if form == "markdown":
        assert text.startswith(f"## {TABLES[name].title}\n")
        assert f"\nOf {figures} figures: " in text
    elif form == "latex":
        assert f"% Of {figures} figures: " in text
        assert text[text.index(r"\begin{tabular}") : text.index(r"\end{tabular}")].isascii()
    elif form == "json":
        assert len(json.loads(text, parse_constant=pytest.fail)["figures"]) == figures
    else:
        assert len(list(csv.DictReader(io.StringIO(text)))) == figures


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["vit_table1"], "There is no table 'vit_table1'; there are vit_table2, "),
        (["vit_table2", "--results=nowhere"], "There is no directory nowhere; name one"),
        (
            ["vit_table2", "--format=html"],
            "invalid choice: 'html'.*see python -m experiments.tables",
        ),
        (["vit_table2", "more"], "unrecognized arguments: more; see"),
    ],
)
def test_mistakes_are_said_in_one_sentence(words, message):
    with pytest.raises(UserError, match=message):
        tables(words)


def test_a_damaged_record_is_named(results, tmp_path):
    (tmp_path / "torn.result.json").write_text('{"format_version": 1')
    with pytest.raises(UserError, match=r"Damaged result records: .*torn\.result\.json \("):
        tables(["vit_table2", f"--results={results},{tmp_path}"])


def test_as_a_command_mistakes_end_with_exit_code_2():
    finished = commands.shared().run("experiments.tables", "vit_table1")
    assert (finished.code, finished.stdout) == (2, "")
    (line,) = finished.stderr.splitlines()
    assert line.startswith("Error: There is no table 'vit_table1'; there are ")
    finished = commands.shared().run("experiments.tables", "pose_open")
    assert (finished.code, finished.stderr) == (0, "")
    assert finished.stdout.startswith("## Lifting: the open benchmark")

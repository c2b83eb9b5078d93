"""``alias-ops report``: one page with every number and figure, no network, no markup but its own."""

import base64
import dataclasses
import json
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from helpers import randn
from torch import nn

from alias_ops import AliasingMonitor
from alias_ops.cli import main, report
from alias_ops.spectra import confidence_report

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
EVIL = "</title><script>alert(1)</script><img src=x onerror=\"alert('2')\">{{ 7 * 7 }}$x_"
VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Tags with their attributes, text by the tag around it; fails where tags do not close."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def within(self, tag):
        return [text for around, text in self.texts if around == tag]


def epochs(count=4, name="layer2.0"):
    return [
        {
            "epoch": i,
            "loss": 2.0 - i / 10,
            "am": 1.0 + i / 10,
            "blocks": {name: 1.0 + i / 10, "layer3.0": 0.5},
            "train_accuracy": 0.1 * i,
            "clean_accuracy": 0.15 * i,
            "pgd_accuracy": 0.8 - 0.1 * i,
        }
        for i in range(1, count + 1)
    ]


def training(name="layer2.0", reason="AM rose") -> dict:
    stops = {"am": {"epoch": 3, "reason": reason}, "pgd": {"epoch": None, "reason": None}}
    return {"settings": {"epsilon": 8}, "stops": stops, "epochs": epochs(name=name)}


def page(folder: Path) -> Page:
    assert main(["report", str(folder)]) == 0
    return Page((folder / "report.html").read_text())


def write(folder: Path, name: str, content: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(content))
    return folder


def test_a_training_is_told_in_full(tmp_path, capsys):
    found = page(write(tmp_path / "run", "results.json", training()))
    assert capsys.readouterr().out == f"{tmp_path / 'run' / 'report.html'}\n"
    assert found.within("h1") == ["Aliasing report: run"]
    assert [image["alt"] for image in found.all("img")] == [
        "AM over 4 epochs, from 0.8 to 0.95; a rule said stop in epoch 3.",
        "Accuracies over 4 epochs: train from 10.0% to 40.0%, clean from 15.0% to 60.0%, pgd from 70.0% to 40.0%.",
        "AM of each epoch against its pgd accuracy. Pearson r = -1.00, n = 4.",
    ]
    assert found.within("td")[:5] == ["1", "0.8", "10.0%", "15.0%", "70.0%"]
    assert ("p", "stop in epoch 3. AM rose") in found.texts
    assert ("p", "would go on") in found.texts
    assert ("th", "settings epsilon") in found.texts


def test_figures_are_in_the_page_and_are_drawings(tmp_path):
    found = page(write(tmp_path, "results.json", training()))
    for image in found.all("img"):
        kind, _, content = image["src"].partition(";base64,")
        assert kind == "data:image/svg+xml"
        drawing = ElementTree.fromstring(base64.b64decode(content))
        assert drawing.tag.endswith("}svg")
        assert len(list(drawing.iter("{http://www.w3.org/2000/svg}path"))) > 20


def test_it_needs_no_network_and_runs_nothing(tmp_path):
    found = page(write(tmp_path, "results.json", training()))
    assert {tag for tag, _ in found.tags} & {"script", "link", "iframe", "object", "base", "form"} == set()
    addresses = [a[key] for _, a in found.tags for key in ("src", "href", "srcset", "action") if key in a]
    assert [address[:60] for address in addresses if not address.startswith("data:image/")] == []
    style = (tmp_path / "report.html").read_text().partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(meta["content"] for meta in found.all("meta") if "http-equiv" in meta)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_it_is_for_everyone(tmp_path):
    found = page(write(tmp_path, "results.json", training()))
    assert found.all("html")[0]["lang"] == "en"
    assert any(meta.get("name") == "viewport" for meta in found.all("meta"))
    assert all(image["alt"] for image in found.all("img"))
    assert all(heading.get("scope") in ("col", "row") for heading in found.all("th"))
    assert len(found.all("main")) == len(found.all("h1")) == 1
    colours = schemes((tmp_path / "report.html").read_text())
    assert len(colours) == 2
    for scheme in colours:
        for text in ("text", "faint"):
            for behind in ("page", "mark"):
                assert contrast(scheme[text], scheme[behind]) >= 4.5, "WCAG 2.2, AA"


def schemes(text: str) -> list[dict[str, str]]:
    """The colours of the light and of the dark scheme, in this order."""
    return [
        dict(
            item.strip()[2:].split(": ") for item in rule.partition("}")[0].split(";") if item.strip().startswith("--")
        )
        for rule in text.split(":root {")[1:]
    ]


def contrast(a: str, b: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_no_name_becomes_markup(tmp_path):
    folder = tmp_path / "<img src=x onerror=alert(1)>"
    content = {**training(name=EVIL, reason=EVIL), EVIL: EVIL}
    content["stops"][EVIL] = {"epoch": 2, "reason": EVIL}
    for epoch in content["epochs"]:
        epoch[f"{EVIL}_accuracy"] = 0.5
    write(folder, "results.json", content)
    write(folder, "aliasing.json", {"layers": [{"layer": EVIL, "kind": EVIL, "am": 1.0}], EVIL: EVIL})
    found = page(folder)
    assert found.all("script") == []
    assert [image for image in found.all("img") if "onerror" in image or not image["src"].startswith("data:")] == []
    assert found.within("title") == [f"{folder.name}: aliasing report"]
    shown = [text for _, text in found.texts]
    assert shown.count(EVIL) >= 4, "names are shown as they are"
    assert "49" not in shown


def test_layers_of_a_measurement_and_of_a_monitor(tmp_path):
    rows = [
        {"layer": "conv1", "kind": "conv 7x7 /2", "am": 1.25, "ms": 3.0},
        {"layer": "pool", "kind": "max", "am": None},
    ]
    found = page(write(tmp_path / "a", "aliasing.json", {"model": "m", "layers": rows}))
    assert found.within("td")[:4] == ["conv 7x7 /2", "1.25", "max", "-"]
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.MaxPool2d(2)).double()
    with AliasingMonitor(model) as monitor:
        history = []
        for seed in range(3):
            model(randn(2, 3, 9, 9, seed=seed))
            history.append(monitor.compute())
            monitor.reset()
    folder = write(tmp_path / "b", "aliasing.json", history[-1])
    found = page(write(folder, "results.json", history))
    assert found.within("td")[-2:] == [f"{history[-1][name]:.4g}" for name in ("0", "1")]
    assert [image["alt"].split(",")[0] for image in found.all("img")] == ["AM over 3 epochs"]


def test_pictures_of_alias_ops_spectrum_are_embedded(tmp_path):
    write(tmp_path, "spectra.json", {"layers": [], "radial_profile": {"x": [1.0]}, "images": 3})
    for name in ("layers.png", "images.png", "unrelated.png"):
        (tmp_path / name).write_bytes(PNG)
    found = page(tmp_path)
    assert [base64.b64decode(image["src"].partition(",")[2]) for image in found.all("img")] == [PNG, PNG]
    assert all(image["src"].startswith("data:image/png;base64,") for image in found.all("img"))


def test_robustness_and_what_attacks_add(tmp_path):
    logits = torch.tensor([[4.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    told = confidence_report(nn.Flatten(), *(of[..., None, None] for of in (logits, -logits)), torch.tensor([0, 1, 0]))
    write(
        tmp_path,
        "robustness.json",
        {
            "norm": f"L2 norm {EVIL}",
            "norms": [0, 0.5, 1],
            "accuracies": {EVIL: [1.0, 0.5, None]},
            "confidences": {EVIL: dataclasses.asdict(told)},
        },
    )
    for name in ("perturbation.png", "perturbation-classes.png", "unrelated.png"):
        (tmp_path / name).write_bytes(PNG)
    found = page(tmp_path)
    assert found.all("script") == []
    mean = 100 * (logits.softmax(-1).max(-1).values.mean().item())
    assert [image["alt"] for image in found.all("img")] == [
        f"Accuracy over the L2 norm {EVIL}: {EVIL} from 100.0% to 50.0%.",
        f"Mean confidence: {EVIL} {mean:.1f}% on clean images, {mean:.1f}% on attacked ones, "
        f"{mean:.1f}% where it is wrong on these.",
        "Mean log-magnitude spectrum of perturbations, of perturbation-classes.",
        "Mean log-magnitude spectrum of perturbations, of perturbation.",
    ]
    assert found.within("h2") == ["Robustness", "Spectra"]


def test_a_network_without_errors_has_no_confidence_in_them(tmp_path):
    one = {"images": 2, "accuracy": 1, "mean": 0.9, "right": 0.9, "wrong": None}  # JSON has no NaN
    write(tmp_path, "robustness.json", {"confidences": {"a": {"clean": one, "adversarial": {**one, "wrong": 0.5}}}})
    assert [image["alt"] for image in page(tmp_path).all("img")] == [
        "Mean confidence: a 90.0% on clean images, 90.0% on attacked ones, 50.0% where it is wrong on these."
    ]


def test_epochs_stand_where_they_were(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(report, "_svg", lambda axes: drawn.append(axes) or "data:image/svg+xml;base64,")
    page(write(tmp_path, "results.json", [{"epoch": 10, "am": 1.0}, {"epoch": 30, "am": 2.0}]))
    assert drawn[0].get_lines()[0].get_xdata().tolist() == [10, 30]


def test_numbers_only_and_nothing_measured(tmp_path):
    assert len(page(write(tmp_path / "a", "results.json", [0.5, None, float("nan"), 0.7])).all("img")) == 1
    unmeasured = [{"epoch": 1, "am": None, "blocks": {}, "clean_accuracy": 0.5}]
    found = page(write(tmp_path / "b", "results.json", {"epochs": unmeasured}))
    assert [image["alt"] for image in found.all("img")] == ["Accuracies over 1 epochs: clean from 50.0% to 50.0%."]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("results.json", "{", "results.json is not JSON ("),
        ("results.json", "[]", "results.json must be a list of epochs, or an object with one under 'epochs'"),
        ("results.json", "{}", "of at least one epoch"),
        ("results.json", '["x"]', "results.json: epoch 1 must be a number or null, got 'x'"),
        ("results.json", '[{"a": {}}]', "results.json: epoch 1, 'a' must be a number or null, got {}"),
        ("results.json", '[{"am": 1, "clean_accuracy": "x"}]', "epoch 1, 'clean_accuracy' must be a number or null"),
        ("results.json", '[{"epoch": "one", "am": 1}]', "epoch 1, 'epoch' must be a whole number, got 'one'"),
        ("results.json", '[{"am": 1, "blocks": [1]}]', "epoch 1, blocks must be an object of numbers, got list"),
        ("results.json", '{"epochs": [1], "stops": {"am": 3}}', "results.json: stops must be an object, rule -> "),
        ("aliasing.json", "[1]", "aliasing.json must be an object, got a list"),
        (
            "aliasing.json",
            '{"layers": [1]}',
            "aliasing.json: entry 0 of layers must be an object with 'layer' and 'am'",
        ),
        ("aliasing.json", '{"a": "b"}', "aliasing.json, 'a' must be a number or null, got 'b'"),
        ("notes.txt", "", "holds no results.json, aliasing.json, spectra.json or robustness.json"),
        ("robustness.json", "[]", "robustness.json must be an object, got a list"),
        ("robustness.json", '{"norms": 3}', "robustness.json: norms must be a list of numbers, got int"),
        ("robustness.json", '{"norms": ["x"]}', "robustness.json: norms, entry 1 must be a number or null, got 'x'"),
        ("robustness.json", '{"accuracies": [1]}', "robustness.json: accuracies must be an object, name -> values"),
        (
            "robustness.json",
            '{"norms": [0, 1], "accuracies": {"a": [1]}}',
            "robustness.json: accuracies, 'a' must have one value for each of norms",
        ),
        (
            "robustness.json",
            '{"norms": [0, null], "accuracies": {"a": [1, 1]}}',
            "robustness.json: accuracies, 'a' must have one value for each of norms, which are numbers",
        ),
        (
            "robustness.json",
            '{"confidences": {"a": {"clean": {"mean": 1}}}}',
            "confidences, 'a' must have images, accuracy, mean, right, wrong, got mean",
        ),
        (
            "robustness.json",
            '{"confidences": {"a": 1}}',
            "confidences, 'a' must be an object of numbers, got NoneType",
        ),
    ],
)
def test_what_is_wrong_is_one_sentence_with_the_file_and_the_place(tmp_path, capsys, name, content, says):
    (tmp_path / name).write_text(content)
    assert main(["report", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "report.html").exists()


def test_where_it_goes(tmp_path, capsys):
    write(tmp_path, "results.json", [1.0])
    assert main(["report", str(tmp_path), "--output", str(tmp_path / "x.html")]) == 0
    assert (tmp_path / "x.html").is_file()
    assert main(["report", str(tmp_path), "--output", str(tmp_path)]) == 2
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    (tmp_path / "layers.png").write_bytes(b"no picture")
    write(tmp_path, "spectra.json", {"layers": []})
    assert main(["report", str(tmp_path)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert "is a folder, expected a file" in errors[0]
    assert "nowhere is not a folder" in errors[1]
    assert errors[2].endswith("layers.png is no PNG")


def test_the_same_results_are_the_same_page(tmp_path):
    write(tmp_path, "results.json", training())
    page(tmp_path)
    first = (tmp_path / "report.html").read_bytes()
    page(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == first


@pytest.mark.parametrize("library", ["matplotlib", "jinja2"])
def test_without_its_libraries(tmp_path, capsys, monkeypatch, library):
    monkeypatch.setattr(report, "find_spec", lambda name: None if name == library else True)
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"alias-ops: report needs {library}; pip install 'alias-ops[cli]'\n"

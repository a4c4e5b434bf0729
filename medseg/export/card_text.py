"""A model card in words: Markdown of its facts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from medseg.export.card import UNKNOWN
from medseg.text import escaped


def card_text(card: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    model, data, training = card["model"], card["data"], card["training"]
    parts = [
        f"# {_plain(model['name'])}",
        f"{model['network']} ({_plain(model['paper'])}), {model['parameters']:,} parameters; fold {model['fold']}, "
        f"seed {model['seed']}. Weights: SHA-256 `{model['weights_sha256']}`.",
        _section(
            "Use",
            [card["intended_use"], f"Licence: {_plain(card['licence'])}.", f"Authors: {_words(card['authors'])}."],
        ),
        _section("Data", _data(data)),
        "## Labels\n\n" + _labels(card["labels"]),
        "## Validation\n\n" + _scores(card["scores"]),
        _section("Training", [_pairs(training)]),
        _section("Preparation", [_pairs(card["preparation"])]),
        _section("Limits", [_pairs(card["limits"]), "An image that differs in these is refused, or doubted by name."]),
        _section("Code", [_pairs(card["code"])]),
    ]
    return "\n\n".join(parts) + "\n"


def _section(title: str, lines: Sequence[str]) -> str:
    return f"## {title}\n\n" + "\n\n".join(lines)


def _data(data: Mapping[str, Any]) -> list[str]:
    seen, study, sizes = data["trained_on"], data["study"], data["voxel_sizes"]
    lines = [f"Data set `{_plain(data['name'])}`; channels: {_words(data['channels'])}."]
    if seen == UNKNOWN:
        lines.append("Which subjects the weights have seen is not known.")
    else:
        more = "" if seen["complete"] else "; they may have seen others, of which there is no record"
        lines.append(
            f"The weights have seen {seen['cases']} cases of {seen['subjects']} subjects, of "
            f"{_words(seen['data_sets'])}{more}."
        )
    if study == UNKNOWN:
        lines.append("The study around the model is not known.")
    else:
        lines.append(f"The study has {study['cases']} cases, {study['subjects']} subjects; sites: {study['sites']}.")
    if sizes != UNKNOWN:
        lines.append(
            f"Voxel sizes ({sizes['unit']}, per axis): {sizes['low']} to {sizes['high']}, median {sizes['median']}."
        )
    return lines


def _labels(labels: Mapping[str, Any]) -> str:
    rows = [(name, value) for name, value in labels["names"].items()]
    text = _table(("class", "value"), rows)
    if labels["regions"]:
        text += "\n\n" + _table(("region", "values"), [(name, _words(values)) for name, values in labels["regions"]])
    if labels["instances"]:
        text += "\n\nLabel maps hold object numbers: each value above 0 is one object."
    return text


def _scores(scores: Any) -> str:
    if scores == UNKNOWN or not scores:
        return "Not known: the model was exported from outside a study, or before its study compared it."
    text = _table(
        ("split", "metric", "class", "mean", "95 % interval", "subjects", "cases", "failed", "trainings"),
        [
            (
                row["split"],
                row["metric"] + (f" ({row['unit']})" if row["unit"] not in ("", "1") else ""),
                row["label"],
                f"{row['mean']:.4g}",
                "none" if row["low"] is None else f"{row['low']:.4g} to {row['high']:.4g}",
                row["n_subjects"],
                row["n"],
                row["n_failed"],
                row["trainings"],
            )
            for row in scores
        ],
    )
    notes = sorted({row["note"] for row in scores if row["note"]})
    about = (
        "Means of subjects' means, over all compared trainings of this model; `val`: of cases that they did not see."
    )
    return "\n\n".join([about, text, *[f"Note: {_plain(note)}." for note in notes]])


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_plain(str(value)) for value in line) + " |" for line in lines)


def _pairs(facts: Mapping[str, Any]) -> str:
    return "\n".join(f"- {name.replace('_', ' ')}: {_words(value)}" for name, value in facts.items())


def _words(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_words, value)) or "none"
    return (
        {True: "yes", False: "no", None: "none"}[value]
        if value is None or isinstance(value, bool)
        else _plain(str(value))
    )


def _plain(text: str) -> str:
    """Text from data as Markdown that shows it as it is: no table, link, code or HTML comes of it."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", escaped(text))

"""PromQL, read: which metrics an expression asks for, and whether its labels can be there."""

import re
from pathlib import Path

import promql_parser as promql

#: What a scrape adds to every series, and what Kubernetes discovery does in deploy/monitoring.
TARGET = {"job", "instance", "namespace", "pod"}

#: The series of a histogram beside its name.
HISTOGRAM = {"_bucket": {"le"}, "_count": set(), "_sum": set()}

Catalog = dict[str, set[str] | None]


def documented(root: Path) -> Catalog:
    """Every series of docs/metrics.md with its labels; `None` where the table shows none, as they may begin with an
    event."""
    catalog: Catalog = {}
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \|", (root / "docs/metrics.md").read_text(), re.MULTILINE)
    for name, kind, labels in rows:
        own = set(re.findall(r"`(\w+)`", labels)) or None
        if kind == "histogram":
            catalog |= {name + suffix: (own or set()) | more for suffix, more in HISTOGRAM.items()}
        else:
            catalog[name] = own
    return catalog


def labels(expression: str, catalog: Catalog) -> set[str] | None:
    """The labels that the result may have, `None` if that is not known.

    Fails where a metric is not in the catalog, or a label is asked for that it can't have.
    """
    return _labels(promql.parse(expression), catalog)


def metrics(expression: str) -> set[str]:
    """The names in it."""
    names: set[str] = set()
    _walk(promql.parse(expression), lambda node: names.add(node.name) if isinstance(node, promql.VectorSelector) else None)
    return names


def _walk(node, visit):
    visit(node)
    for child in _children(node):
        _walk(child, visit)


def _children(node) -> list:
    match node:
        case promql.BinaryExpr():
            return [node.lhs, node.rhs]
        case promql.AggregateExpr() | promql.UnaryExpr() | promql.ParenExpr() | promql.SubqueryExpr():
            return [node.expr]
        case promql.Call():
            return list(node.args)
        case promql.MatrixSelector():
            return [node.vector_selector]
    return []


def _labels(node, catalog: Catalog) -> set[str] | None:
    if isinstance(node, promql.VectorSelector):
        assert node.name in catalog, f"no such metric: {node.name}"
        have = catalog[node.name]
        have = None if have is None else have | TARGET
        _within({matcher.name for matcher in node.matchers.matchers}, have, node.name)
        return have
    inside = [_labels(child, catalog) for child in _children(node)]
    everything = None if None in inside else set().union(*inside)
    match node:
        case promql.AggregateExpr(modifier=None):
            return set()
        case promql.AggregateExpr():
            named = set(node.modifier.labels)
            _within(named, everything, node.prettify())
            if node.modifier.type == promql.AggModifierType.By:
                return named
            return None if everything is None else everything - named
        case promql.BinaryExpr() if node.modifier and node.modifier.matching:
            for side in inside:
                _within(set(node.modifier.matching.labels), side, node.prettify())
        case promql.Call() if node.func.name in ("label_replace", "label_join"):
            return None if everything is None else everything | {node.args[1].val}
    return everything


def _within(named: set[str], have: set[str] | None, where: str):
    assert have is None or named <= have, f"no label {named - have} in {where}"

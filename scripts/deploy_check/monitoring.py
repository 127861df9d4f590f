"""Prometheus and Grafana: by promtool, and every metric and label against src/metrics.rs."""

import itertools
import json
import pathlib
import re
import subprocess
import tempfile

import yaml

FOLDER = "deploy/prometheus"
DASHBOARD = "deploy/grafana/dashboards/headwater.json"
# Prometheus's own series.
FOREIGN = {"up": ["instance", "job"], "ALERTS": ["alertname", "alertstate", "severity"]}
WORDS = {"and", "or", "unless", "by", "on", "without", "ignoring", "offset", "bool", "group_left", "group_right"}
# What a scrape adds to each series.
SCRAPED = {"instance", "job"}
# What Grafana puts in, for a check without Grafana.
VARIABLES = {"$pipeline": ".*", "$__rate_interval": "1m"}

promtool = None


def run_promtool(program, *arguments):
    done = subprocess.run([promtool, *arguments], cwd=program.root / FOLDER, capture_output=True, text=True)
    return (done.stdout + done.stderr).strip().splitlines() if done.returncode else []


def alerts(program):
    return [rule for group in program.yaml(f"{FOLDER}/alerts.yml")["groups"] for rule in group["rules"]]


def panels(program):
    return json.loads(program.text(DASHBOARD))["panels"]


def queries(program):
    """Every query as (where it stands, text that Prometheus can run)."""
    for rule in alerts(program):
        yield f"alert {rule['alert']}", rule["expr"]
    for panel in panels(program):
        for target in panel.get("targets", []):
            expression = target["expr"]
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            yield f"panel {panel['id']} {panel['title']} ({target['refId']})", expression


def labels_of(program, metric):
    """None where there is no such metric."""
    if metric in FOREIGN:
        return set(FOREIGN[metric])
    for ending in ("", "_bucket", "_sum", "_count"):
        kind, labels = program.metrics.get(metric.removesuffix(ending), (None, []))
        if kind and metric.endswith(ending) and (kind == "Histogram") == bool(ending):
            return {*labels, *SCRAPED, *(["le"] if ending == "_bucket" else [])}
    return None


def selectors(expression):
    """The series that a query selects, as (metric, labels of its matchers)."""
    text = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)
    text = re.sub(r"\b(?:by|on|without|ignoring)\s*\([^)]*\)|\[[^\]]*\]", " ", text)
    for name, opened, matchers in re.findall(r"\b([a-zA-Z_:][\w:]*)\s*(\(?)(\{[^}]*\})?", text):
        if not opened and name not in WORDS and not re.fullmatch(r"\d*[smhd]", name):
            yield name, re.findall(r"(\w+)\s*[=!]", matchers)


def grouped_by(expression):
    return {label.strip() for labels in re.findall(r"\bby\s*\(([^)]*)\)", expression) for label in labels.split(",")}


def unknown(program, where, expression):
    """Metrics and labels that src/metrics.rs does not declare."""
    known = set()
    for metric, matchers in selectors(expression):
        labels = labels_of(program, metric)
        if labels is None:
            yield f"{where}: there is no metric {metric}"
            continue
        known |= labels
        yield from (f"{where}: {metric} has no label {label}" for label in matchers if label not in labels)
    made = set(re.findall(r'label_replace\(.*?"(\w+)"', expression, re.S))
    yield from (f"{where}: no metric has the label {label}" for label in sorted(grouped_by(expression) - known - made))


def config(program):
    """By promtool; and each target is a service of docker-compose.yml, on the port that headwater listens on."""
    yield from run_promtool(program, "check", "config", "prometheus.yml")
    compose = program.yaml("docker-compose.yml")["services"]
    port = re.search(r"HEADWATER__HTTP__LISTEN=[\d.]+:(\d+)", program.text("Dockerfile"))[1]
    for name, (_, labels) in program.metrics.items():
        # Prometheus would call it exported_job, and nobody's rules would find it.
        yield from (f"{name}: {label} is a label of Prometheus' own" for label in labels if label in ("job", "instance"))
    for job in program.yaml(f"{FOLDER}/prometheus.yml")["scrape_configs"]:
        for target in itertools.chain.from_iterable(part["targets"] for part in job["static_configs"]):
            host, _, asked = target.partition(":")
            if host not in compose or asked != port:
                yield f"{target} is no service of docker-compose.yml, or not its port {port}"


def rules(program):
    yield from run_promtool(program, "check", "rules", "alerts.yml")
    for rule in alerts(program):
        yield from unknown(program, rule["alert"], rule["expr"])
        if rule["labels"].get("severity") not in ("page", "ticket"):
            yield f"{rule['alert']}: its severity is neither page nor ticket"
        yield from (
            f"{rule['alert']}: no {text}" for text in ("summary", "description") if text not in rule["annotations"]
        )


def rule_tests(program):
    """By promtool; and each alert has a test in which it fires and one in which it is quiet, on metrics that exist."""
    yield from run_promtool(program, "test", "rules", "alerts.test.yml")
    fires, quiet = [], set()
    for test in program.yaml(f"{FOLDER}/alerts.test.yml")["tests"]:
        for series in test["input_series"]:
            yield from unknown(program, test["name"], series["series"])
        for question in test["promql_expr_test"]:
            named = re.search(r'alertname=~?"([^"]+)"', question["expr"])[1]
            names = {rule["alert"] for rule in alerts(program) if re.fullmatch(named, rule["alert"])}
            if not question["exp_samples"]:
                quiet |= names
            for sample in question["exp_samples"]:
                fires.append(dict(re.findall(r'(\w+)="([^"]*)"', sample["labels"])))
    for rule in alerts(program):
        name = rule["alert"]
        if name not in quiet:
            yield f"{name}: no test in which it is quiet"
        # Several rules may share a name; the labels that they add tell them apart.
        own = {"alertname": name, **rule["labels"]}.items()
        fired = [sample for sample in fires if own <= sample.items()]
        if not fired:
            yield f"{name}: no test in which it fires, with the labels {rule['labels']}"
        named = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
        for label in sorted({label for sample in fired for label in named - sample.keys()}):
            yield f"{name}: its text names the label {label}, which it does not fire with"


def dashboard(program):
    """Ids once, nothing overlaps, every panel has its query, its text and its source, and each stage has its row."""
    whole = json.loads(program.text(DASHBOARD))
    ids = [panel["id"] for panel in whole["panels"]]
    yield from (f"the id {one} is there twice" for one in sorted(set(ids)) if ids.count(one) > 1)
    sources = {
        source["uid"]
        for source in program.yaml("deploy/grafana/provisioning/datasources/prometheus.yml")["datasources"]
    }
    variables = whole["templating"]["list"]
    named = {part["datasource"]["uid"] for part in [*variables, *whole["panels"]] if "datasource" in part}
    yield from (f"there is no source {source}" for source in sorted(named - sources))
    rows, place = [], {}
    for panel in whole["panels"]:
        grid = panel["gridPos"]
        where = f"panel {panel['id']} {panel['title']}"
        if grid["x"] + grid["w"] > 24:
            yield f"{where}: it is wider than the dashboard"
        for cell in itertools.product(range(grid["x"], grid["x"] + grid["w"]), range(grid["y"], grid["y"] + grid["h"])):
            if place.setdefault(cell, where) != where:
                yield f"{where}: it lies over {place[cell]}"
                break
        if panel["type"] == "row":
            rows.append(panel["title"])
            continue
        targets = panel.get("targets", [])
        references = [target["refId"] for target in targets]
        if not targets or len(set(references)) < len(references):
            yield f"{where}: no query, or two of one name"
        if not panel.get("description"):
            yield f"{where}: no description"
        named = {target["datasource"]["uid"] for target in targets}
        yield from (f"{where}: there is no source {source}" for source in sorted(named - sources))
    stages = {path.parent.name for path in (program.root / "src").glob("*/mod.rs")} & {"capture", "land", "analyze"}
    yield from (
        f"no row for the stage {stage}"
        for stage in sorted(stages)
        if not any(row.lower().startswith(stage) for row in rows)
    )
    given = {"$" + variable["name"] for variable in variables} | {"$__rate_interval"}
    used = set(
        re.findall(
            r"\$\w+", " ".join(target["expr"] for panel in whole["panels"] for target in panel.get("targets", []))
        )
    )
    yield from (f"there is no variable {name}" for name in sorted(used - given))
    provider = program.yaml("deploy/grafana/provisioning/dashboards/headwater.yml")["providers"][0]["options"]["path"]
    mounts = program.yaml("docker-compose.yml")["services"]["grafana"]["volumes"]
    if f"./deploy/grafana/dashboards:{provider}:ro" not in mounts:
        yield f"docker-compose.yml mounts no dashboards at {provider}"


def dashboard_queries(program):
    """Prometheus can parse each; metrics, labels and the labels of legends exist."""
    for panel in panels(program):
        for target in panel.get("targets", []):
            expression, where = target["expr"], f"panel {panel['id']} {panel['title']} ({target['refId']})"
            yield from unknown(program, where, expression)
            kept = grouped_by(expression)
            if not kept:
                kept = set().union(*(labels_of(program, metric) or set() for metric, _ in selectors(expression)))
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            yield from (f"{where}: its legend names {label}, which no series has" for label in sorted(shown - kept))
    written = [{"record": f"check:{n}", "expr": expression} for n, (_, expression) in enumerate(queries(program))]
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "queries.yml")
        file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": written}]}))
        yield from run_promtool(program, "check", "rules", str(file))


CHECKS = {
    "prometheus-config": (config, "Prometheus: promtool check config; targets are services"),
    "prometheus-rules": (rules, "Prometheus: promtool check rules; every metric and label is in src/metrics.rs"),
    "prometheus-tests": (
        rule_tests,
        "Prometheus: promtool test rules; every alert fires in a test and is quiet in one",
    ),
    "grafana-dashboard": (dashboard, "Grafana: ids, places, sources, variables; a row for each stage"),
    "grafana-queries": (
        dashboard_queries,
        "Grafana: every query is one for Prometheus; every metric and label is in src/metrics.rs",
    ),
}

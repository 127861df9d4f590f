"""deploy/kubernetes: against the API's schemas, and against itself."""

import re

import kubernetes_validate

from program import configurations_in

FOLDER = "deploy/kubernetes"
# The oldest release that we mean to run on, and the newest one that has a schema here.
RELEASES = ("1.31", "1.37")


def files(program):
    """All but the kustomization itself, which is no resource of the API."""
    found = sorted(path.name for path in (program.root / FOLDER).glob("*.yaml"))
    return [name for name in found if name != "kustomization.yaml"]


def resources(program):
    return [(name, document) for name in files(program) for document in program.documents(f"{FOLDER}/{name}")]


def title(resource):
    return f"{resource['kind']} {resource['metadata']['name']}"


def schema(program):
    for name, resource in resources(program):
        for release in RELEASES:
            try:
                kubernetes_validate.validate(resource, release, strict=True)
            except kubernetes_validate.ValidationError as error:
                yield f"{name}: {title(resource)}, release {release}: {error.message}"
            except kubernetes_validate.SchemaNotFoundError as error:
                yield f"{name}: {title(resource)}, release {release}: {error}"


def kustomization(program):
    """Every file is applied, but the example of a secret; names are there once; nothing names a namespace."""
    kustomization = program.yaml(f"{FOLDER}/kustomization.yaml")
    listed, there = set(kustomization["resources"]), {name for name in files(program) if ".example." not in name}
    yield from (f"{name} is not in kustomization.yaml" for name in sorted(there - listed))
    yield from (f"kustomization.yaml lists {name}, which is not there" for name in sorted(listed - there))
    seen = set()
    for name, resource in resources(program):
        if title(resource) in seen:
            yield f"{title(resource)} is there twice"
        seen.add(title(resource))
        if "namespace" in resource["metadata"]:
            yield f"{name}: {title(resource)} names a namespace"


def pods(program):
    for name, resource in resources(program):
        if resource["kind"] in ("Deployment", "StatefulSet"):
            yield f"{name}: {title(resource)}", resource["spec"]


def references(program):
    """Selectors find pods, ports have names that exist, and what is mounted or read is there."""
    everything = [resource for _, resource in resources(program)]
    present = {title(resource) for resource in everything}
    data = {title(resource): resource.get("stringData", resource.get("data", {})) for resource in everything}
    labels = [spec["template"]["metadata"]["labels"] for _, spec in pods(program)]
    ports = set()
    for where, spec in pods(program):
        pod = spec["template"]["spec"]
        selector = spec["selector"]["matchLabels"].items()
        if not selector <= spec["template"]["metadata"]["labels"].items():
            yield f"{where}: its selector does not find its own pods"
        if sum(selector <= other.items() for other in labels) != 1:
            yield f"{where}: its selector finds the pods of another"
        if "serviceName" in spec and f"Service {spec['serviceName']}" not in present:
            yield f"{where}: there is no Service {spec['serviceName']}"
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        volumes.update({claim["metadata"]["name"]: claim for claim in spec.get("volumeClaimTemplates", [])})
        mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        if mounted != volumes.keys():
            yield f"{where}: the volumes {sorted(mounted ^ volumes.keys())} are mounted or there, not both"
        for volume in volumes.values():
            if "secret" in volume and f"Secret {volume['secret']['secretName']}" not in present:
                yield f"{where}: there is no example of the secret {volume['secret']['secretName']}"
        for container in pod["containers"]:
            ports.update(port["name"] for port in container["ports"])
            yield from paths(where, container, volumes, data)
            for source in container.get("envFrom", []):
                if f"ConfigMap {source['configMapRef']['name']}" not in present:
                    yield f"{where}: there is no ConfigMap {source['configMapRef']['name']}"
    for resource in everything:
        spec = resource.get("spec", {})
        selector = {"Service": spec.get("selector"), "PodDisruptionBudget": spec.get("selector", {}).get("matchLabels")}
        selector["NetworkPolicy"] = spec.get("podSelector", {}).get("matchLabels")
        wanted = selector.get(resource["kind"])
        if wanted and not any(wanted.items() <= other.items() for other in labels):
            yield f"{title(resource)}: its selector finds no pod"
        named = [port.get("targetPort") for port in spec.get("ports", [])]
        named += [port["port"] for rule in spec.get("ingress", []) for port in rule.get("ports", [])]
        yield from (f"{title(resource)}: no container has the port {port}" for port in named if port not in ports)


def paths(where, container, volumes, data):
    """A password's file is a key of a secret that is mounted where the variable says."""
    for variable in container.get("env", []):
        found = re.fullmatch(r"(/run/secrets/\w+)/(\w+)", variable["value"])
        if not found:
            continue
        mounts = [mount for mount in container["volumeMounts"] if mount["mountPath"] == found[1]]
        secret = volumes.get(mounts[0]["name"], {}).get("secret", {}) if mounts else {}
        if found[2] not in data.get(f"Secret {secret.get('secretName')}", {}):
            yield f"{where}: {variable['value']} is in no secret that is mounted"


def headwater(program):
    """Image, arguments, files, variables and endpoints are the program's; it drains before it is killed."""
    data = {title(resource): resource.get("data", {}) for _, resource in resources(program)}
    routes = set(re.findall(r'\.route\("([^"]+)"', program.text("src/http.rs")))
    listens = re.search(r"HEADWATER__HTTP__LISTEN=[\d.]+:(\d+)", program.text("Dockerfile"))
    for where, spec in pods(program):
        pod = spec["template"]["spec"]
        for container in pod["containers"]:
            if container["image"] != f"headwater:{program.version}":
                yield f"{where}: {container['image']}, where Cargo.toml says {program.version}"
            yield from (f"{where}: {problem}" for problem in program.wrong_arguments(container["args"]))
            configurations = configurations_in(container["args"])
            missing = [file for file in configurations if not program.exists(file)]
            yield from (f"{where}: {file} is not in the repository" for file in missing)
            names = {variable["name"] for variable in container.get("env", [])}
            for source in container.get("envFrom", []):
                names |= set(data.get(f"ConfigMap {source['configMapRef']['name']}", {}))
            known = configurations - set(missing)
            yield from (f"{where}: {problem}" for problem in program.unknown_variables(names, known))
            for probe, path in (("livenessProbe", "/live"), ("readinessProbe", "/ready")):
                asked = container.get(probe, {}).get("httpGet", {}).get("path")
                if asked != path or path not in routes:
                    yield f"{where}: its {probe} asks {asked}"
            if not listens or [port["containerPort"] for port in container["ports"]] != [int(listens[1])]:
                yield f"{where}: its port is not that of HEADWATER__HTTP__LISTEN in the Dockerfile"
        if pod["terminationGracePeriodSeconds"] * 1000 <= int(program.defaults["runtime.shutdown_timeout_ms"]):
            yield f"{where}: it is killed before runtime.shutdown_timeout_ms"


def rights(program):
    """Nobody's, no capabilities, a root that cannot be written, no token, and limits."""
    user = re.findall(r"^USER (\d+)", program.text("Dockerfile"), re.M)[-1]
    for where, spec in pods(program):
        pod = spec["template"]["spec"]
        security = pod.get("securityContext", {})
        wrong = []
        if not security.get("runAsNonRoot") or str(security.get("runAsUser")) != user:
            wrong.append(f"it does not run as the image's user {user}")
        if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            wrong.append("no seccomp profile")
        if pod.get("automountServiceAccountToken") is not False:
            wrong.append("it is given a token of the cluster")
        for container in pod["containers"]:
            own = container.get("securityContext", {})
            if own.get("allowPrivilegeEscalation") is not False or own.get("capabilities") != {"drop": ["ALL"]}:
                wrong.append("it may gain rights, or has capabilities")
            if own.get("readOnlyRootFilesystem") is not True:
                wrong.append("it may write its root")
            limits = container.get("resources", {})
            if any(part not in limits.get(kind, {}) for kind in ("requests", "limits") for part in ("cpu", "memory")):
                wrong.append("it has no requests or limits of CPU and memory")
        yield from (f"{where}: {problem}" for problem in wrong)


CHECKS = {
    "kubernetes-schema": (
        schema,
        f"Kubernetes: every manifest fits the schemas of {RELEASES[0]} and {RELEASES[1]}, strictly",
    ),
    "kubernetes-kustomization": (kustomization, "Kubernetes: every manifest is applied once, in no fixed namespace"),
    "kubernetes-references": (
        references,
        "Kubernetes: selectors, ports, volumes, secrets and ConfigMaps find what they name",
    ),
    "kubernetes-headwater": (headwater, "Kubernetes: image, commands, files, variables and probes are headwater's"),
    "kubernetes-rights": (rights, "Kubernetes: non-root, read-only root, no capabilities, limits"),
}

"""Dockerfile and docker-compose.yml."""

import json
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

from program import configurations_in, numbers

# Whoever pins these gets what nobody maintains any more. The list is made by hand from what the projects themselves
# announced: Bitnami moved its free images to bitnamilegacy in August 2025 and updates them no more (bitnami/containers
# #83267), Wurstmeister's are gone since 2024 (kafka-docker #744), Kafka UI is maintained as kafbat's instead of
# Provectus's, and Kafka in KRaft mode has no ZooKeeper. No registry is asked: that a tag exists is seen when compose
# pulls it, and that an image is given up later is for whoever raises its tag to look up.
ARCHIVED = ("bitnami/", "bitnamilegacy/", "provectuslabs/", "wurstmeister/", "zookeeper", "confluentinc/cp-zookeeper")


def instructions(program):
    """The Dockerfile as (instruction, rest), continued lines joined and comments left out."""
    lines = [line for line in program.text("Dockerfile").splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def dockerfile_lint(program):
    linter = pathlib.Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, "--no-color", program.root / "Dockerfile"], capture_output=True, text=True)
    return (done.stdout + done.stderr).splitlines() if done.returncode else []


def dockerfile_sources(program):
    """What is copied is there and reaches the builder, and what the program includes is copied."""
    kept = [line[1:] for line in program.text(".dockerignore").splitlines() if line.startswith("!")]
    copied, stages = set(), 0
    for name, rest in instructions(program):
        stages += name == "FROM"
        if name != "COPY" or rest.startswith("--from"):
            continue
        for source in rest.split()[:-1]:
            if stages == 1:
                copied.add(source)
            if not program.exists(source):
                yield f"COPY {source}: it is not in the repository"
            if source.split("/")[0] not in kept:
                yield f"COPY {source}: .dockerignore keeps it out"
    for file, text in program.rust():
        if "tests" in file.parts:
            continue
        for path in re.findall(r'include_(?:str|bytes)!\((?:concat!\()?"([^"]+)"', text):
            included = (program.root / file.parent / path).resolve().relative_to(program.root.resolve())
            if included.parts[0] not in copied:
                yield f"{file} includes {included}, which no COPY brings to the builder"


def dockerfile_image(program):
    """A pinned toolchain that is new enough, nobody's rights, a health check, and arguments that exist."""
    steps = instructions(program)
    bases = [rest.split()[0] for name, rest in steps if name == "FROM"]
    yield from (f"FROM {base}: no tag, or latest" for base in bases if ":" not in base or base.endswith(":latest"))
    rust = re.fullmatch(r"rust:([\d.]+)-.+", bases[0])
    if not rust or numbers(rust[1])[:2] < program.rust_version[:2]:
        yield f"FROM {bases[0]}: Cargo.toml asks for Rust {'.'.join(map(str, program.rust_version))}"
    if not any(name == "RUN" and "cargo build" in rest and "--locked" in rest for name, rest in steps):
        yield "the build is not --locked"
    last = [n for n, step in enumerate(steps) if step[0] == "FROM"][-1]
    final = {name: rest for name, rest in steps[last:]}
    if not re.fullmatch(r"[1-9]\d*(:\d+)?", final.get("USER", "")):
        yield f"USER {final.get('USER')}: not a number above 0, so nobody can tell that it is not root"
    health = final.get("HEALTHCHECK", "")
    if '"headwater", "status"' not in health:
        yield "HEALTHCHECK does not ask `headwater status`"
    period = re.search(r"--start-period=(\w+)", health)
    yield from start_is_waited_for(program, "HEALTHCHECK", period[1] if period else "0s")
    entry = json.loads(final["ENTRYPOINT"])
    for arguments in (json.loads(final["CMD"]), json.loads(health[health.index("CMD") + 3 :])[1:]):
        yield from program.wrong_arguments(arguments if entry == ["headwater"] else [])
        yield from (
            f"{path} is not in the repository" for path in configurations_in(arguments) if not program.exists(path)
        )
    for name, rest in steps:
        if name == "ENV" and "HEADWATER" in rest:
            yield from program.unknown_variables(re.findall(r"\b(HEADWATER_\w+)=", rest), [])


def milliseconds(text):
    """Of a time as `150s`, the only unit that is used here."""
    return int(text.removesuffix("s")) * 1000


def start_is_waited_for(program, where, period):
    attempts, delay_ms = (int(program.defaults[f"runtime.wait_{key}"]) for key in ("attempts", "delay_ms"))
    if milliseconds(period) <= attempts * delay_ms:
        yield f"{where}: its start period of {period} is shorter than the wait for PostgreSQL and Kafka"


def compose_schema(program):
    return schema_errors(program, "vendor.compose-spec", "docker-compose.yml")


def schema_errors(program, schema, file):
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        schema,
        "--color",
        "never",
        program.root / file,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    return (done.stdout + done.stderr).splitlines() if done.returncode else []


def compose_config(program):
    """By Compose itself, where there is one. None: there is none."""
    if not shutil.which("docker") or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        return None
    command = ["docker", "compose", "--file", program.root / "docker-compose.yml", "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stderr.splitlines() if done.returncode else []


def services(program):
    return program.yaml("docker-compose.yml")["services"]


def is_one_shot(service):
    return service.get("restart") == "no"


def compose_images(program):
    """Pinned, maintained, and the same versions as the tests run."""
    for name, service in services(program).items():
        image, _, tag = service.get("image", "").rpartition(":")
        if not image or tag in ("", "latest"):
            yield f"{name}: its image has no tag, or latest"
        yield from (f"{name}: {image} is archived" for archived in ARCHIVED if image.startswith(archived))
        if image == "headwater" and tag != program.version:
            yield f"{name}: headwater:{tag}, where Cargo.toml says {program.version}"
        if image == "apache/kafka" and f"version={tag}\n" not in program.text("scripts/kafka.sh"):
            yield f"{name}: Kafka {tag}, where scripts/kafka.sh has another one"


def compose_services(program):
    """Each has limits, a restart policy, a health check; what it names is declared, and what is declared is named."""
    compose = program.yaml("docker-compose.yml")
    named = {"volumes": set(), "secrets": set()}
    for name, service in compose["services"].items():
        limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
        yield from (f"{name}: no limit of {limit}" for limit in ("cpus", "memory") if limit not in limits)
        if "restart" not in service:
            yield f"{name}: no restart policy"
        health = service.get("healthcheck", {})
        if not is_one_shot(service) and "test" not in health:
            yield f"{name}: no health check"
        named["secrets"].update(service.get("secrets", []))
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if not source.startswith("."):
                named["volumes"].add(source)
            elif not program.exists(source):
                yield f"{name}: {source} is not in the repository"
        for other, how in service.get("depends_on", {}).items():
            condition, target = how["condition"], compose["services"].get(other)
            if target is None:
                yield f"{name}: waits for {other}, which is no service"
            elif condition == "service_healthy" and "test" not in target.get("healthcheck", {}):
                yield f"{name}: waits for {other} to be healthy, which has no health check"
            elif (condition == "service_completed_successfully") != is_one_shot(target):
                yield f"{name}: waits for {other} by {condition}"
    for kind, names in named.items():
        declared = set(compose.get(kind, {}))
        yield from (f"{kind}: {name} is not declared" for name in sorted(names - declared))
        yield from (f"{kind}: {name} is used by no service" for name in sorted(declared - names))
    for secret in compose["secrets"].values():
        if not program.exists(secret["file"]):
            yield f"secrets: {secret['file']} is not in the repository"


def compose_headwater(program):
    """What the containers of headwater are given exists: commands, options, files, variables; and they drain."""
    shutdown_ms = int(program.defaults["runtime.shutdown_timeout_ms"])
    for name, service in services(program).items():
        if not service.get("image", "").startswith("headwater:"):
            continue
        health = service.get("healthcheck", {})
        lines = [service.get("command", [])]
        if "entrypoint" in service:  # a shell: a command a line
            lines = [shlex.split(line) for line in lines[0][0].splitlines()]
            yield from (f"{name}: `{line[0]}` is not headwater" for line in lines if line[0] != "headwater")
            lines = [line[1:] for line in lines]
        if not is_one_shot(service):
            lines.append(health["test"][2:])
            if health["test"][:3] != ["CMD", "headwater", "status"]:
                yield f"{name}: its health check is not `headwater status`"
            yield from start_is_waited_for(program, name, health["start_period"])
        files = configurations_in([word for line in lines for word in line])
        for line in lines:
            yield from (f"{name}: {problem}" for problem in program.wrong_arguments(line))
        yield from (f"{name}: {file} is not in the repository" for file in sorted(files) if not program.exists(file))
        files = {file for file in files if program.exists(file)}
        environment = service.get("environment", {})
        yield from (f"{name}: {problem}" for problem in program.unknown_variables(environment, files))
        yield from secrets_are_given(name, service)
        if milliseconds(service["stop_grace_period"]) <= shutdown_ms:
            yield f"{name}: stop_grace_period ends before runtime.shutdown_timeout_ms"
        if not (service.get("read_only") and service.get("cap_drop") == ["ALL"]):
            yield f"{name}: it may write its root, or has capabilities"


def secrets_are_given(name, service):
    """A path in /run/secrets is a secret of the service, and the other way round."""
    paths = set(re.findall(r"/run/secrets/(\w+)", json.dumps(service.get("environment", {}))))
    given = set(service.get("secrets", []))
    yield from (f"{name}: /run/secrets/{path} is none of its secrets" for path in sorted(paths - given))
    yield from (f"{name}: nothing names its secret {secret}" for secret in sorted(given - paths))


def compose_variables(program):
    """What the file takes from the environment is in configs/example.env, with the same default; what PostgreSQL's
    container is given is what its script reads; and paths in other containers are mounted."""
    text = program.text("docker-compose.yml")
    example = set(re.findall(r"^#(\w+=.*)$", program.text("configs/example.env"), re.M))
    for name, default in set(re.findall(r"\$\{(\w+)(?::-([^}]*))?\}", text)):
        if f"{name}={default}" not in example:
            yield f"${{{name}:-{default}}} is not in configs/example.env like that"
    postgres = services(program)["postgres"]
    script = program.text("deploy/postgres/init.sh")
    for name in postgres["environment"]:
        if not name.startswith("POSTGRES_") and name not in script:
            yield f"postgres: deploy/postgres/init.sh does not read {name}"
    for name in set(re.findall(r"\$\{?\"?(\w+_FILE)", script)):
        if name not in postgres["environment"]:
            yield f"postgres: deploy/postgres/init.sh reads {name}, which it is not given"
    for name, service in services(program).items():
        if service["image"].startswith("headwater:"):
            continue
        yield from secrets_are_given(name, service)
        mounts = dict(reversed(volume.split(":")[:2]) for volume in service.get("volumes", []))
        words = list(map(str, service.get("environment", {}).values())) + service.get("command", [])
        for path in re.findall(r"(?<![\w/.])/(?:etc|var/lib)/[\w./-]+", " ".join(words)):
            if not inside(program, mounts, path):
                yield f"{name}: {path} is in nothing that is mounted"


def inside(program, mounts, path):
    """Whether a path in a container is mounted and, where from the repository, there."""
    for place, source in mounts.items():
        if path == place or path.startswith(place.rstrip("/") + "/"):
            return not source.startswith(".") or program.exists(source + path[len(place) :])
    return False


def compose_kafka(program):
    """Each promised address reaches a listener that tells clients just this address."""
    kafka = services(program)["kafka"]
    environment = kafka["environment"]

    def addresses(key):
        return dict(item.split("://") for item in environment[key].split(","))

    listens = {name: address.rpartition(":")[2] for name, address in addresses("KAFKA_LISTENERS").items()}
    tells = addresses("KAFKA_ADVERTISED_LISTENERS")
    published = {}
    for port in kafka["ports"]:
        *_, outer, inner = port.split(":")
        published[outer] = inner
    for promised in ("kafka:9092", "kafka:29092", "localhost:9092", "localhost:9094"):
        host, port = promised.split(":")
        inner = port if host == "kafka" else published.get(port)
        names = [name for name, at in listens.items() if at == inner]
        if not names:
            yield f"nothing listens for {promised}"
        elif tells.get(names[0]) != promised:
            yield f"who asks {promised} is sent to {tells.get(names[0])}"
    protocols = dict(item.split(":") for item in environment["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(","))
    yield from (f"the listener {name} has no protocol" for name in listens if name not in protocols)
    for file in ("configs/orders_stream.yml", "configs/chat.yml"):
        brokers = re.search(r"brokers: \$\{\w+:-([^}]+)\}", program.text(file))[1]
        if brokers not in tells.values():
            yield f"{file} asks {brokers}, which no listener tells"


def workflow(program):
    """By the schema of GitHub's workflows; and it runs .ci/run with a Rust that is new enough."""
    file = ".github/workflows/ci.yml"
    yield from schema_errors(program, "vendor.github-workflows", file)
    jobs = program.yaml(file)["jobs"]
    steps = [step.get("run", "") for job in jobs.values() for step in job["steps"]]
    if not any(".ci/run" in step for step in steps) or not program.exists(".ci/run"):
        yield "nothing runs .ci/run"
    if not any("docker build" in step for step in steps):
        yield "nothing builds the image"
    for job in jobs.values():
        rust = re.match(r"rust:([\d.]+)", job.get("container", ""))
        if rust and numbers(rust[1])[:2] < program.rust_version[:2]:
            yield f"{job['container']}: Cargo.toml asks for a newer Rust"


CHECKS = {
    "dockerfile-lint": (dockerfile_lint, "Dockerfile: hadolint finds nothing"),
    "dockerfile-sources": (
        dockerfile_sources,
        "Dockerfile: what it copies is there, and what the program includes is copied",
    ),
    "dockerfile-image": (
        dockerfile_image,
        "Dockerfile: pinned, locked, nobody's, with a health check; commands, files and variables exist",
    ),
    "compose-schema": (compose_schema, "docker-compose.yml: fits the schema of the Compose specification"),
    "compose-config": (compose_config, "docker-compose.yml: accepted by docker compose"),
    "compose-images": (
        compose_images,
        "docker-compose.yml: images are pinned, maintained, of the versions that are tested",
    ),
    "compose-services": (
        compose_services,
        "docker-compose.yml: limits, restarts, health, start order; volumes, secrets and files are there",
    ),
    "compose-headwater": (
        compose_headwater,
        "docker-compose.yml: headwater's commands, options, files and variables exist",
    ),
    "compose-variables": (compose_variables, "docker-compose.yml: variables and paths of the other containers exist"),
    "compose-kafka": (
        compose_kafka,
        "docker-compose.yml: Kafka answers by the four addresses with the address that was asked",
    ),
    "workflow": (workflow, ".github/workflows/ci.yml: fits its schema, runs .ci/run, builds the image"),
}

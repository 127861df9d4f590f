"""What the program and the repository know: keys, variables, commands, metrics. Read off the sources themselves."""

import pathlib
import re

import yaml


class Loader(yaml.SafeLoader):
    """YAML in which a key given twice is an error, rather than the last one winning."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is there twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class Program:
    def __init__(self, root):
        self.root = pathlib.Path(root)
        readme = self.text("README.md")
        table = readme[readme.index("### Configuration keys") : readme.index("### Dead-letter reasons")]
        # A test compares this table with the code.
        self.keys = set(re.findall(r"^\| `([a-z_.\[\]]+)` \|", table, re.M))
        self.defaults = dict(re.findall(r"^\| `([a-z_.]+)` \| [^|]+ \| `([^`|]+)` \|", table, re.M))
        declared = re.findall(r'^    \w+: (\w+) "(\w+)" \[([^\]]*)\]', self.text("src/metrics.rs"), re.M)
        self.metrics = {name: (kind, re.findall(r'"(\w+)"', labels)) for kind, name, labels in declared}
        self.version = re.search(r'^version = "([^"]+)"', self.text("Cargo.toml"), re.M)[1]
        self.rust_version = numbers(re.search(r'^rust-version = "([^"]+)"', self.text("Cargo.toml"), re.M)[1])

    def text(self, path):
        return (self.root / path).read_text()

    def exists(self, path):
        return (self.root / path).exists()

    def yaml(self, path):
        return yaml.load(self.text(path), Loader)

    def documents(self, path):
        return [document for document in yaml.load_all(self.text(path), Loader) if document]

    def rust(self):
        for file in sorted(self.root.glob("src/**/*.rs")):
            yield file.relative_to(self.root), file.read_text()

    def variables_of(self, configuration):
        """The names that `${NAME:-default}` asks for in a file of configs/."""
        lines = [line for line in self.text(configuration).splitlines() if not line.lstrip().startswith("#")]
        return set(re.findall(r"\$\{(\w+)", "\n".join(lines)))

    def is_override(self, variable):
        """Whether HEADWATER__SECTION__KEY names a key, as src/config/environment.rs resolves it."""
        path = ""
        for part in variable.removeprefix("HEADWATER__").lower().split("__"):
            path += "[]" if part.isdigit() else ("." if path else "") + part
        return path in self.keys or path.removesuffix("[]") in self.keys or path.startswith("kafka.properties.")

    def unknown_variables(self, names, configurations):
        """Those that neither a key, nor the sources, nor one of these configurations asks for."""
        asked = set().union(*(self.variables_of(file) for file in configurations)) if configurations else set()
        sources = "".join(text for _, text in self.rust())
        for name in sorted(names):
            if name.startswith("HEADWATER__"):
                if not self.is_override(name):
                    yield f"{name} is no key of the configuration"
            elif name.startswith("HEADWATER_"):
                if f'"{name}"' not in sources:
                    yield f"{name} is not in the sources"
            elif name not in asked:
                yield f"{name} is asked for by none of {', '.join(sorted(configurations)) or 'the configurations'}"

    def wrong_arguments(self, arguments):
        """Commands and options of `headwater ...` that the command line does not have."""
        cli = self.text("src/cli/arguments.rs")

        def commands(enum):
            body = re.search(rf"^(?:pub )?enum {enum} \{{(.*?)^\}}", cli, re.M | re.S)
            return {name.lower() for name in re.findall(r"^    ([A-Z]\w*)\b", body[1], re.M)} if body else set()

        words = [word for word in arguments if not word.startswith("-")]
        if not words or words[0] not in commands("Command"):
            if arguments[:1] != ["--version"]:
                yield f"there is no command `headwater {' '.join(words[:1])}`"
        elif f"{words[0].title()}Command" in cli and words[1] not in commands(f"{words[0].title()}Command"):
            yield f"there is no command `headwater {words[0]} {words[1]}`"
        sources = "".join(text for path, text in self.rust() if str(path).startswith(("src/cli", "src/generate")))
        for word in arguments:
            if word.startswith("--") and word != "--version":
                field = word[2:].split("=")[0].replace("-", "_")
                if not re.search(rf"^    (?:pub )?{field}: ", sources, re.M):
                    yield f"`headwater {words[0]}` has no option {word}"


def numbers(version):
    """`1.95` as (1, 95), to be compared."""
    return tuple(int(part) for part in version.split("."))


def configurations_in(words):
    """What the image has in /etc/headwater is configs/ of the repository."""
    text = " ".join(words)
    return {"configs/" + name for name in re.findall(r"/etc/headwater/([\w./-]+)", text)}

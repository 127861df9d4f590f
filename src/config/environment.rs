//! What the environment adds: `HEADWATER__SECTION__KEY` overrides, the service manager's credentials, and `${VAR}`
//! substitution.

use super::{
    error::{Collector, Origin, Problem},
    keys::{self, KEYS, Kind},
    nearest::nearest,
    tree::{self, Entry, Node, Scalar, Style, Value},
};
use std::{collections::BTreeMap, fmt, path::Path};

const PREFIX: &str = "HEADWATER__";
/// Where a service manager puts the secrets of a service, a file each (systemd.exec(5)).
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// Variables by name. `Debug` gives the names only, for values may be secrets.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// This process's variables, without those that are not UTF-8.
    pub fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Environment(std::env::vars_os().filter_map(text).collect())
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        Environment(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// Hides the values of variables that by their names hold secrets, wherever they turn up.
pub fn hide_secrets(environment: &Environment, errors: &mut Collector) {
    const MARKS: [&str; 5] = ["PASSWORD", "PASSWD", "SECRET", "TOKEN", "CREDENTIAL"];
    for (name, value) in &environment.0 {
        let name = name.to_uppercase();
        // A `…_FILE` holds a path, which an error should show.
        if MARKS.iter().any(|mark| name.contains(mark)) && !name.ends_with("_FILE") && name != CREDENTIALS {
            errors.hide(value);
        }
    }
}

/// One step from a section to what it holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Name(String),
    Index(usize),
}

/// Puts every `HEADWATER__…` variable in its place in `root`. An empty one counts as not set.
pub fn apply_overrides(root: &mut Node, environment: &Environment, errors: &mut Collector) {
    let mut overrides = Vec::new();
    for (variable, value) in &environment.0 {
        let Some(rest) = variable.strip_prefix(PREFIX) else { continue };
        if value.is_empty() {
            continue;
        }
        let origin = Origin::Variable(variable.clone());
        match locate(rest) {
            Some((steps, kind)) => overrides.push((steps, kind, origin, value)),
            None => {
                let near = nearest(&with_first_index(variable), KEYS.iter().map(|key| variable_of(key.path)));
                errors.add_unknown(&origin, String::new(), near, Vec::new());
            }
        }
    }
    // Sections before their parts, list items in the order of their numbers.
    overrides.sort_by(|a, b| a.0.cmp(&b.0));
    for (steps, kind, origin, value) in overrides {
        let node = if is_collection(kind) {
            match tree::parse_flow(value, &origin) {
                Ok(node) => node,
                Err(problem) => {
                    errors.add(&origin, path_of(&steps), problem);
                    continue;
                }
            }
        } else if value == "null" {
            Node { origin: origin.clone(), value: Value::Null }
        } else {
            Node::loose(value.as_str(), origin.clone())
        };
        if let Err(problem) = place(root, &steps, node, &origin) {
            errors.add(&origin, path_of(&steps), problem);
        }
        displace_twin(root, &steps);
    }
}

fn is_collection(kind: Kind) -> bool {
    matches!(kind, Kind::TextList(_) | Kind::Properties | Kind::Section | Kind::SectionList)
}

/// The variable that overrides the key at `path`.
pub fn variable_of(path: &str) -> String {
    format!("{PREFIX}{}", path.replace("[]", ".0").replace('.', "__").to_uppercase())
}

/// For comparing names: which item of a list is meant does not matter.
fn with_first_index(variable: &str) -> String {
    let part = |part: &str| {
        let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if digits { "0".to_owned() } else { part.to_owned() }
    };
    variable.split("__").map(part).collect::<Vec<_>>().join("__")
}

/// Which place `CAPTURE__TABLES__0__TOPIC` names, and what belongs there.
fn locate(rest: &str) -> Option<(Vec<Step>, Kind)> {
    let mut steps = Vec::new();
    let mut section = String::new();
    let mut kind = Kind::Section;
    for part in rest.split("__") {
        let name = part.to_lowercase();
        match kind {
            Kind::Section => {
                let key = keys::child(&section, &name)?;
                section = key.path.to_owned();
                kind = key.kind;
                steps.push(Step::Name(name));
            }
            Kind::SectionList => {
                steps.push(Step::Index(part.parse().ok()?));
                section.push_str("[]");
                kind = Kind::Section;
            }
            Kind::TextList(format) => {
                steps.push(Step::Index(part.parse().ok()?));
                kind = Kind::Text(format);
            }
            // The names of librdkafka's properties have dots, which a variable's cannot.
            Kind::Properties => {
                steps.push(Step::Name(name.replace('_', ".")));
                kind = Kind::Text(keys::Format::Any);
            }
            _ => return None,
        }
    }
    Some((steps, kind))
}

fn path_of(steps: &[Step]) -> String {
    let mut path = String::new();
    for step in steps {
        match step {
            Step::Name(name) if path.is_empty() => path.push_str(name),
            Step::Name(name) => path.push_str(&format!(".{name}")),
            Step::Index(index) => path.push_str(&format!("[{index}]")),
        }
    }
    path
}

fn place(node: &mut Node, steps: &[Step], value: Node, origin: &Origin) -> Result<(), Problem> {
    let Some((step, rest)) = steps.split_first() else {
        *node = value;
        return Ok(());
    };
    let child = match step {
        Step::Name(name) => {
            if node.is_null() {
                node.value = Value::Map(Vec::new());
            }
            // Anything else is of the wrong kind, which the check of the whole tree reports.
            let Value::Map(entries) = &mut node.value else { return Ok(()) };
            let index = entries.iter().position(|entry| entry.name == *name).unwrap_or_else(|| {
                let node = Node { origin: origin.clone(), value: Value::Null };
                entries.push(Entry { name: name.clone(), node });
                entries.len() - 1
            });
            &mut entries[index].node
        }
        Step::Index(index) => {
            if node.is_null() {
                node.value = Value::List(Vec::new());
            }
            let Value::List(items) = &mut node.value else { return Ok(()) };
            if *index > items.len() {
                let length = items.len();
                return Err(Problem::Rule(format!(
                    "skips items of a list that has {length}; the next one is {length}"
                )));
            }
            if *index == items.len() {
                items.push(Node { origin: origin.clone(), value: Value::Null });
            }
            &mut items[*index]
        }
    };
    place(child, rest, value, origin)
}

/// An override of a password displaces the file's `password_file`, and the other way round;
/// otherwise a file that has one could never be run with the other.
fn displace_twin(root: &mut Node, steps: &[Step]) {
    let [Step::Name(section), Step::Name(key)] = steps else { return };
    let twin = match key.strip_suffix("_file") {
        Some(secret) => secret.to_owned(),
        None => format!("{key}_file"),
    };
    let is_secret = |name: &str| keys::child(section, name).is_some_and(|key| key.secret);
    if !is_secret(key) && !is_secret(&twin) {
        return;
    }
    if let Value::Map(entries) = &mut root.value
        && let Some(Entry { node: Node { value: Value::Map(entries), .. }, .. }) =
            entries.iter_mut().find(|entry| entry.name == *section)
    {
        entries.retain(|entry| entry.name != twin || entry.node.is_override());
    }
}

/// Puts each credential of the service manager in its place in `root`: `postgres_password` stands for
/// `postgres.password_file`, and so with every key `section.name_file`, unless a variable gives that key. One
/// without text counts as not given, for that is what a unit gives where its administrator has none.
pub fn apply_credentials(root: &mut Node, environment: &Environment) {
    let Some(directory) = environment.get(CREDENTIALS).filter(|directory| !directory.is_empty()) else { return };
    for key in KEYS {
        let Some((section, file)) = key.path.split_once('.').filter(|(_, name)| !name.contains('.')) else { continue };
        let Some(name) = file.strip_suffix("_file") else { continue };
        let found = root.get(section);
        let is_variable = |name| found.and_then(|section| section.get(name)).is_some_and(Node::is_override);
        // A file without PostgreSQL has no use for its password, which would ask for host, db and user.
        if (found.is_none() && section == "postgres") || is_variable(file) || is_variable(name) {
            continue;
        }
        let credential = Path::new(directory).join(format!("{section}_{name}"));
        let is_absent = match std::fs::read(&credential) {
            Ok(text) => text.trim_ascii().is_empty(),
            // Whatever else is wrong is said by who reads it.
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        };
        if is_absent {
            continue;
        }
        let origin = Origin::Variable(CREDENTIALS.to_owned());
        let steps = [section, file].map(|step| Step::Name(step.to_owned()));
        let node = Node::loose(credential.display().to_string(), origin.clone());
        // Names alone: what can fail is an index.
        let _ = place(root, &steps, node, &origin);
        displace_twin(root, &steps);
    }
}

/// Replaces `${VAR}`, `${VAR:-default}` and `${VAR:?message}` in every scalar that the file itself
/// holds. A value that comes out empty counts as not given.
pub fn substitute(root: &mut Node, environment: &Environment, errors: &mut Collector) {
    substitute_within(root, "", environment, errors);
}

/// False when the node shall go.
fn substitute_within(node: &mut Node, path: &str, environment: &Environment, errors: &mut Collector) -> bool {
    let origin = node.origin.clone();
    match &mut node.value {
        Value::Null => true,
        Value::Scalar(scalar) => {
            if matches!(origin, Origin::Variable(_)) || !scalar.text.contains("${") {
                return true;
            }
            match expand(&scalar.text, environment) {
                Ok(text) => {
                    let kept = !text.is_empty();
                    *scalar = Scalar { text, style: Style::Loose };
                    kept
                }
                Err(problem) => {
                    errors.add(&origin, path, problem);
                    errors.excuse(path);
                    false
                }
            }
        }
        Value::List(items) => {
            let mut index = 0;
            items.retain_mut(|item| {
                let kept = substitute_within(item, &format!("{path}[{index}]"), environment, errors);
                index += 1;
                kept
            });
            true
        }
        Value::Map(entries) => {
            entries.retain_mut(|entry| {
                let path = if path.is_empty() { entry.name.clone() } else { format!("{path}.{}", entry.name) };
                substitute_within(&mut entry.node, &path, environment, errors)
            });
            true
        }
    }
}

fn expand(text: &str, environment: &Environment) -> Result<String, Problem> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            out.push_str(&rest[..at - 1]);
            out.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let body = &rest[at + 2..];
        let end = closing_brace(body).ok_or(Problem::Substitution("${ without its }"))?;
        out.push_str(&resolve(&body[..end], environment)?);
        rest = &body[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

/// Where the brace closes that was opened before `body`; a default may hold pairs of its own.
fn closing_brace(body: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, byte) in body.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 0 => return Some(at),
            b'}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// `NAME`, `NAME:-default` or `NAME:?message`. As in a shell, `:` makes empty the same as unset.
fn resolve(body: &str, environment: &Environment) -> Result<String, Problem> {
    let (name, operation) = body.split_at(body.find(':').unwrap_or(body.len()));
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    if !first || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Err(Problem::Substitution("a variable's name has letters, digits and _ only"));
    }
    let value = environment.get(name);
    let filled = value.filter(|value| !value.is_empty());
    let unset = |message| Problem::UnsetVariable { name: name.to_owned(), message };
    if operation.is_empty() {
        return value.map(str::to_owned).ok_or_else(|| unset(None));
    }
    if let Some(default) = operation.strip_prefix(":-") {
        return filled.map_or_else(|| expand(default, environment), |value| Ok(value.to_owned()));
    }
    if let Some(message) = operation.strip_prefix(":?") {
        return filled.map(str::to_owned).ok_or_else(|| unset(Some(message.to_owned())));
    }
    Err(Problem::Substitution("only ${NAME}, ${NAME:-default} and ${NAME:?message} are known"))
}

/// The names of the variables that `text` would ask for, defaults included: for documentation.
#[cfg(test)]
pub fn variables_in(text: &str) -> std::collections::BTreeSet<String> {
    let mut names = std::collections::BTreeSet::new();
    for (at, _) in text.match_indices("${") {
        if !text[..at].ends_with('$') {
            let body = &text[at + 2..];
            names.insert(body[..body.find([':', '}']).unwrap()].to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> Environment {
        [("A", "1"), ("EMPTY", ""), ("B_2", "x${A}")].into_iter().collect()
    }

    #[test]
    fn substitution() {
        let expand = |text: &str| expand(text, &environment()).map_err(|problem| problem.to_string());
        assert_eq!(expand("a${A}b${A}").unwrap(), "a1b1");
        assert_eq!(expand("${B_2}").unwrap(), "x${A}");
        assert_eq!(expand("${EMPTY}").unwrap(), "");
        assert_eq!(expand("${EMPTY:-d}${C:-e}").unwrap(), "de");
        assert_eq!(expand("${C:-/lake/{tenant}/x}/y").unwrap(), "/lake/{tenant}/x/y");
        assert_eq!(expand("${C:-${D:-${A}}}").unwrap(), "1");
        assert_eq!(expand("$${A} $ $A $$").unwrap(), "${A} $ $A $$");
        assert!(expand("${C}").unwrap_err().contains("needs the environment variable C"));
        assert!(expand("${C:?ask the admin}").unwrap_err().ends_with("not set: ask the admin"));
        assert!(expand("${EMPTY:?}").is_err());
        for bad in ["${A", "${}", "${1A}", "${A-b}", "${A:+b}", "${A:"] {
            assert!(expand(bad).unwrap_err().contains("substitution"), "{bad}");
        }
    }

    #[test]
    fn places() {
        let (steps, kind) = locate("CAPTURE__TABLES__10__TOPIC").unwrap();
        assert_eq!((path_of(&steps).as_str(), kind), ("capture.tables[10].topic", Kind::Text(keys::Format::Topic)));
        let (steps, _) = locate("KAFKA__PROPERTIES__SOCKET_TIMEOUT_MS").unwrap();
        assert_eq!(steps[2], Step::Name("socket.timeout.ms".into()));
        assert!(locate("CAPTURE__TABLES__TOPIC").is_none());
        assert!(locate("KAFKA__TOPIC__X").is_none());
        assert!(locate("").is_none());
        for key in KEYS {
            assert!(locate(variable_of(key.path).strip_prefix(PREFIX).unwrap()).is_some(), "{}", key.path);
        }
    }

    #[test]
    fn debug_shows_names_only() {
        let environment: Environment = [("PASSWORD", "hunter2")].into_iter().collect();
        assert_eq!(format!("{environment:?}"), "{\"PASSWORD\"}");
    }
}

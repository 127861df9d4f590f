//! Reads single sections of a checked tree: the builders' view of it.

use super::{
    check::{join, quoted},
    error::{Collector, Origin, Problem},
    formats,
    keys::{self, Default, Key, Kind},
    tree::{Node, Scalar, Style, Value},
};

/// One section of a checked tree: gives values of the right type or nothing, for what is wrong has
/// been reported.
#[derive(Clone)]
pub struct Section<'a> {
    node: Option<&'a Node>,
    origin: Origin,
    /// As in [`Key::path`].
    pattern: String,
    /// With list positions.
    pub path: String,
}

impl<'a> Section<'a> {
    pub fn root(node: &'a Node) -> Self {
        Section { node: Some(node), origin: Origin::File, pattern: String::new(), path: String::new() }
    }

    /// A section that is not in the file: gives defaults. `pattern` as in [`Key::path`].
    pub fn absent(pattern: &str) -> Section<'static> {
        Section { node: None, origin: Origin::File, pattern: pattern.to_owned(), path: pattern.to_owned() }
    }

    pub fn section(&self, name: &str) -> Section<'a> {
        let node = self.node.and_then(|node| node.get(name));
        Section {
            node,
            origin: node.map_or(Origin::File, |node| node.origin.clone()),
            pattern: join(&self.pattern, name),
            path: join(&self.path, name),
        }
    }

    /// The items of a list of sections.
    pub fn items(&self, name: &str) -> Vec<Section<'a>> {
        let Some(Node { value: Value::List(items), .. }) = self.given(name) else { return Vec::new() };
        let item = |(index, node): (usize, &'a Node)| Section {
            node: Some(node),
            origin: node.origin.clone(),
            pattern: format!("{}[]", join(&self.pattern, name)),
            path: format!("{}[{index}]", join(&self.path, name)),
        };
        items.iter().enumerate().map(item).collect()
    }

    /// The value as it stands, right or wrong.
    pub fn given(&self, name: &str) -> Option<&'a Node> {
        self.node?.get(name)
    }

    pub fn has(&self, name: &str) -> bool {
        self.given(name).is_some()
    }

    pub fn is_override(&self, name: &str) -> bool {
        self.given(name).is_some_and(Node::is_override)
    }

    /// Where to point for a fault of `name`.
    pub fn origin(&self, name: &str) -> Origin {
        self.given(name).map_or_else(|| self.origin.clone(), |node| node.origin.clone())
    }

    pub fn path_of(&self, name: &str) -> String {
        join(&self.path, name)
    }

    pub fn add(&self, errors: &mut Collector, name: &str, problem: Problem) {
        errors.add(&self.origin(name), self.path_of(name), problem);
    }

    pub fn add_value(&self, errors: &mut Collector, name: &str, problem: Problem, value: &str) {
        errors.add_value(&self.origin(name), self.path_of(name), problem, quoted(value));
    }

    pub fn missing(&self, errors: &mut Collector, name: &str, why: &str) {
        if !self.has(name) {
            self.add(errors, name, Problem::Missing(why.to_owned()));
        }
    }

    fn key(&self, name: &str) -> Option<&'static Key> {
        let key = keys::child(&self.pattern, name);
        debug_assert!(key.is_some(), "{} {name} is not in the table of keys", self.pattern);
        key
    }

    /// A valid scalar of `name` as given.
    fn scalar(&self, name: &str) -> Option<(&'a Scalar, Kind)> {
        let kind = self.key(name)?.kind;
        match &self.given(name)?.value {
            Value::Scalar(scalar) if formats::check_scalar(kind, scalar).is_ok() => Some((scalar, kind)),
            _ => None,
        }
    }

    /// A valid scalar, or the default.
    fn scalar_or_default(&self, name: &str) -> Option<(Scalar, Kind)> {
        if let Some((scalar, kind)) = self.scalar(name) {
            return Some((scalar.clone(), kind));
        }
        // `null` is a value where it is one at all.
        if self.given(name).is_some_and(Node::is_null) {
            return None;
        }
        let key = self.key(name)?;
        match key.default {
            Default::Value(text) => Some((Scalar { text: text.to_owned(), style: Style::Plain }, key.kind)),
            Default::None | Default::Derived(_) => None,
        }
    }

    pub fn text(&self, name: &str) -> Option<String> {
        self.scalar_or_default(name).map(|(scalar, _)| scalar.text)
    }

    /// A whole number; the table's bounds keep it within `T`.
    pub fn integer<T: TryFrom<i64> + std::default::Default>(&self, name: &str) -> T {
        let number = match self.scalar_or_default(name) {
            Some((scalar, Kind::Integer { min, max })) => formats::integer(&scalar, min, max),
            _ => None,
        };
        number.and_then(|number| T::try_from(number).ok()).unwrap_or_default()
    }

    pub fn seconds(&self, name: &str) -> Option<f64> {
        match self.scalar(name)? {
            (scalar, Kind::Seconds { max }) => formats::seconds(scalar, max),
            _ => None,
        }
    }

    /// A number; zero where none is given and none is the default.
    pub fn number(&self, name: &str) -> f64 {
        match self.scalar_or_default(name) {
            Some((scalar, Kind::Number { min, max })) => formats::number(&scalar, min, max).unwrap_or_default(),
            _ => 0.0,
        }
    }

    /// Milliseconds of a duration with its unit.
    pub fn duration_ms(&self, name: &str) -> Option<i64> {
        formats::duration_ms(&self.text(name)?)
    }

    pub fn boolean(&self, name: &str) -> bool {
        self.scalar_or_default(name).and_then(|(scalar, _)| formats::boolean(&scalar)).unwrap_or_default()
    }

    /// One of the key's choices, as the table spells it.
    pub fn choice(&self, name: &str) -> Option<&'static str> {
        match self.scalar_or_default(name)? {
            (scalar, Kind::Choice(choices)) => formats::choice(choices, &scalar.text),
            _ => None,
        }
    }

    pub fn texts(&self, name: &str) -> Vec<String> {
        let Some(Node { value: Value::List(items), .. }) = self.given(name) else { return Vec::new() };
        let text = |item: &Node| match &item.value {
            Value::Scalar(scalar) => Some(scalar.text.clone()),
            _ => None,
        };
        items.iter().filter_map(text).collect()
    }

    pub fn is_list(&self, name: &str) -> bool {
        matches!(self.given(name), Some(Node { value: Value::List(_), .. }))
    }

    pub fn is_empty_list(&self, name: &str) -> bool {
        matches!(self.given(name), Some(Node { value: Value::List(items), .. }) if items.is_empty())
    }

    /// The entries of a free map, each with its place.
    pub fn properties(&self, name: &str) -> Vec<(String, String, Origin)> {
        let Some(Node { value: Value::Map(entries), .. }) = self.given(name) else { return Vec::new() };
        let mut properties = Vec::new();
        for entry in entries {
            if let Value::Scalar(scalar) = &entry.node.value {
                properties.push((entry.name.clone(), scalar.text.clone(), entry.node.origin.clone()));
            }
        }
        properties
    }

    /// The secret `name` or the content of the file `<name>_file`.
    pub fn secret(&self, name: &str, errors: &mut Collector) -> Option<String> {
        let file = format!("{name}_file");
        if self.has(name) && self.has(&file) {
            self.add(errors, &file, Problem::Exclusive { other: self.path_of(name) });
            return None;
        }
        let Some(path) = self.text(&file) else { return self.text(name) };
        match read_secret(&path) {
            Ok(secret) => {
                errors.hide(&secret);
                Some(secret)
            }
            Err(error) => {
                self.add_value(errors, &file, Problem::File(error), &path);
                None
            }
        }
    }

    /// A path to a file that must be there, relative to the configuration's own directory.
    pub fn readable_file(&self, name: &str, errors: &mut Collector) -> Option<std::path::PathBuf> {
        let given = self.text(name)?;
        let path = errors.beside(&given);
        if let Err(error) = std::fs::File::open(&path).and_then(|file| file.metadata()).and_then(plain_file) {
            self.add_value(errors, name, Problem::File(error), &path.display().to_string());
            return None;
        }
        Some(path)
    }
}

fn plain_file(metadata: std::fs::Metadata) -> std::io::Result<()> {
    if metadata.is_dir() { Err(std::io::ErrorKind::IsADirectory.into()) } else { Ok(()) }
}

/// The file's text without one newline at its end.
fn read_secret(path: &str) -> std::io::Result<String> {
    let mut text = std::fs::read_to_string(path)?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    if text.is_empty() {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "it is empty"));
    }
    Ok(text)
}

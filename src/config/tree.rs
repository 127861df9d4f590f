//! The file as a tree of texts, each with the place it came from.
//!
//! Scalars keep their text as written: `password: 0123` is the password `0123`, not the number 123.

use super::error::{Origin, Problem};
use saphyr::{LoadableYamlNode, MarkedYaml, Scalar as YamlScalar, YamlData};

#[derive(Clone)]
pub struct Node {
    /// Of a value in a map: the line of its key.
    pub origin: Origin,
    pub value: Value,
}

#[derive(Clone)]
pub enum Value {
    Null,
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Clone)]
pub struct Entry {
    pub name: String,
    pub node: Node,
}

#[derive(Clone)]
pub struct Scalar {
    pub text: String,
    pub style: Style,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Without quotes: may be a number or a truth value.
    Plain,
    /// A text for certain.
    Quoted,
    /// From a variable of the environment, so that quotes say nothing: whatever the key asks for.
    Loose,
}

impl Node {
    pub fn loose(text: impl Into<String>, origin: Origin) -> Node {
        Node { origin, value: Value::Scalar(Scalar { text: text.into(), style: Style::Loose }) }
    }

    pub fn get(&self, name: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.name == name).map(|entry| &entry.node),
            _ => None,
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    pub fn is_override(&self) -> bool {
        matches!(self.origin, Origin::Variable(_))
    }

    /// Calls `change` for every scalar within.
    pub fn for_each_scalar(&mut self, change: &mut dyn FnMut(&Origin, &mut Scalar)) {
        match &mut self.value {
            Value::Null => {}
            Value::Scalar(scalar) => change(&self.origin, scalar),
            Value::List(items) => items.iter_mut().for_each(|item| item.for_each_scalar(change)),
            Value::Map(entries) => entries.iter_mut().for_each(|entry| entry.node.for_each_scalar(change)),
        }
    }
}

/// Parses a file's text. An empty file is an empty map.
pub fn parse(text: &str) -> Result<Node, (Origin, Problem)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let documents = MarkedYaml::load_from_str(text).map_err(|error| {
        let line = error.marker().line();
        (Origin::Line(line.max(1)), Problem::Syntax(error.info().to_owned()))
    })?;
    let mut documents = documents.into_iter();
    let Some(document) = documents.next() else {
        return Ok(Node { origin: Origin::File, value: Value::Map(Vec::new()) });
    };
    if let Some(second) = documents.next() {
        let line = second.span.start.line();
        return Err((Origin::Line(line), Problem::Syntax("a second document begins here; one file holds one".into())));
    }
    if matches!(document.data, YamlData::BadValue) {
        return Ok(Node { origin: Origin::File, value: Value::Map(Vec::new()) });
    }
    convert(&document, text, &|line| Origin::Line(line))
}

/// Parses the text of one variable; everything in it has `origin`.
pub fn parse_flow(text: &str, origin: &Origin) -> Result<Node, Problem> {
    let documents = MarkedYaml::load_from_str(text).map_err(|error| Problem::Syntax(error.info().to_owned()))?;
    match documents.as_slice() {
        [document] => convert(document, text, &|_| origin.clone()).map_err(|(_, problem)| problem),
        _ => Err(Problem::Syntax("one value is asked for".into())),
    }
}

fn convert(node: &MarkedYaml, source: &str, origin: &dyn Fn(usize) -> Origin) -> Result<Node, (Origin, Problem)> {
    let here = origin(node.span.start.line());
    let value = match &node.data {
        YamlData::Value(YamlScalar::Null) => Value::Null,
        YamlData::Value(YamlScalar::String(text)) => Value::Scalar(Scalar {
            text: text.to_string(),
            style: if slice(node, source) == *text { Style::Plain } else { Style::Quoted },
        }),
        YamlData::Value(scalar) => Value::Scalar(Scalar { text: literal(node, scalar, source), style: Style::Plain }),
        YamlData::Sequence(items) => {
            Value::List(items.iter().map(|item| convert(item, source, origin)).collect::<Result<_, _>>()?)
        }
        YamlData::Mapping(map) => {
            let mut entries = Vec::with_capacity(map.len());
            for (key, value) in map {
                let place = origin(key.span.start.line());
                let name = match &key.data {
                    YamlData::Value(YamlScalar::String(text)) => text.to_string(),
                    YamlData::Value(YamlScalar::Null) => "null".to_owned(),
                    YamlData::Value(scalar) => literal(key, scalar, source),
                    _ => return Err((place, Problem::Syntax("a key must be a word".into()))),
                };
                let mut node = convert(value, source, origin)?;
                node.origin = place;
                entries.push(Entry { name, node });
            }
            Value::Map(entries)
        }
        YamlData::Tagged(..) => return Err((here, Problem::Syntax("tags (!name) have no meaning here".into()))),
        YamlData::Alias(_) | YamlData::BadValue | YamlData::Representation(..) => {
            return Err((here, Problem::Syntax("a value that cannot be understood".into())));
        }
    };
    Ok(Node { origin: here, value })
}

/// The characters between the node's marks.
fn slice<'a>(node: &MarkedYaml, source: &'a str) -> &'a str {
    let (start, end) = (node.span.start.index(), node.span.end.index());
    let byte = |index: usize| source.char_indices().nth(index).map_or(source.len(), |(at, _)| at);
    source.get(byte(start)..byte(end.max(start))).unwrap_or_default().trim()
}

/// A number or truth value as written. Behind an alias (`*name`) only its value is known.
fn literal(node: &MarkedYaml, scalar: &YamlScalar, source: &str) -> String {
    let text = slice(node, source);
    if YamlScalar::parse_from_cow(text.into()) == *scalar {
        return text.to_owned();
    }
    match scalar {
        YamlScalar::Integer(number) => number.to_string(),
        YamlScalar::FloatingPoint(number) => number.to_string(),
        YamlScalar::Boolean(truth) => truth.to_string(),
        YamlScalar::String(text) => text.to_string(),
        YamlScalar::Null => "null".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text<'a>(node: &'a Node, name: &str) -> (&'a str, Style) {
        match &node.get(name).unwrap().value {
            Value::Scalar(scalar) => (&scalar.text, scalar.style),
            _ => panic!("{name} is no scalar"),
        }
    }

    #[test]
    fn scalars_keep_their_text_and_line() {
        let node =
            parse("# é\nanchor: &a 0x10\na: 0123\nb: '5'\nc: 1e3 # x\nd: *a\ne: true\nf:\ng: \"\\u0041\"\nh: a b\n")
                .unwrap();
        assert_eq!(text(&node, "a"), ("0123", Style::Plain));
        assert_eq!(text(&node, "b"), ("5", Style::Quoted));
        assert_eq!(text(&node, "c"), ("1e3", Style::Plain));
        assert_eq!(text(&node, "d"), ("16", Style::Plain));
        assert_eq!(text(&node, "e"), ("true", Style::Plain));
        assert!(node.get("f").unwrap().is_null());
        assert_eq!(text(&node, "g"), ("A", Style::Quoted));
        assert_eq!(text(&node, "h"), ("a b", Style::Plain));
        assert_eq!(node.get("c").unwrap().origin, Origin::Line(5));
    }

    #[test]
    fn syntax_errors_have_a_line() {
        let line = |text: &str| match parse(text) {
            Err((Origin::Line(line), Problem::Syntax(_))) => line,
            _ => panic!("{text:?} parsed"),
        };
        assert_eq!(line("a: 1\nb: [1, 2\nc: 3\n"), 3);
        assert_eq!(line("a: 1\nb: 2\na: 3\n"), 3);
        assert_eq!(line("a: 1\n---\nb: 1\n"), 3);
        assert_eq!(line("a: 1\nb: !x 5\n"), 2);
        assert_eq!(line("a: 1\n? [x]\n: 2\n"), 2);
    }

    #[test]
    fn an_empty_file_is_an_empty_map() {
        for text in ["", "# nothing\n", "\u{feff}"] {
            assert!(matches!(parse(text).unwrap().value, Value::Map(entries) if entries.is_empty()));
        }
    }
}

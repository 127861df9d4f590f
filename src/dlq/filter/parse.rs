//! The grammar of conditions: `COLUMN OPERATOR VALUE`, joined by `and`.

use super::{Column, Condition, Operator, Test};
use crate::record::{
    reason::{ROW_TOO_LARGE, Reason},
    time,
};
use std::fmt::Write;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Whole,
    /// Days since 1970.
    Day,
    /// Microseconds since 1970.
    Time,
    YesNo,
}

/// Name, what it is, and what it means.
const COLUMNS: &[(&str, Column, Kind, &str)] = &[
    ("pipeline", Column::Pipeline, Kind::Text, "the pipeline's or tenant's name"),
    ("stage", Column::Stage, Kind::Text, "capture, land or analyze"),
    ("job", Column::Job, Kind::Text, "the job of analyze; null for capture and land"),
    ("topic", Column::Topic, Kind::Text, "the record's topic"),
    ("topic_id", Column::TopicId, Kind::Text, "Kafka's id of it, which another topic of that name does not have"),
    ("partition", Column::Partition, Kind::Whole, "its partition"),
    ("offset", Column::Offset, Kind::Whole, "its offset"),
    ("reason", Column::Reason, Kind::Text, "why it was refused"),
    ("detail", Column::Detail, Kind::Text, "the words to it"),
    ("day", Column::Day, Kind::Day, "UTC day of Kafka's timestamp of the record"),
    ("time", Column::Time, Kind::Time, "when it was refused"),
    ("record_time", Column::RecordTime, Kind::Time, "Kafka's timestamp of the record"),
    ("key", Column::Key, Kind::Text, "its key"),
    ("payload", Column::Payload, Kind::Text, "its payload; payload.a.b is that field of it as JSON"),
    ("size", Column::Size, Kind::Whole, "bytes of the payload"),
    ("replayed", Column::Replayed, Kind::YesNo, "whether it was replayed before: yes or no"),
];

/// The columns with their meanings, for `--help`.
pub fn columns_help() -> String {
    let mut text = String::from(
        "Conditions of --where: COLUMN OPERATOR VALUE, joined by `and`. Operators: = != < <= > >= and ~ (contains).\n\
         A value with spaces is quoted ('like this'); null is no value at all. Columns:\n",
    );
    for (name, _, _, meaning) in COLUMNS {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {name:<12} {meaning}");
    }
    text
}

/// Longer ones first.
const OPERATORS: [(&str, Operator); 7] = [
    ("!=", Operator::Unequal),
    ("<=", Operator::AtMost),
    (">=", Operator::AtLeast),
    ("=", Operator::Equal),
    ("<", Operator::Less),
    (">", Operator::Greater),
    ("~", Operator::Contains),
];

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    #[error("there is no column {name:?}; there are {}, and payload.FIELD", names())]
    Column { name: String },
    #[error("after {after:?} comes one of = != < <= > >= ~, not {found:?}")]
    Operator { after: String, found: String },
    #[error("a value is missing after {after:?}")]
    NoValue { after: String },
    #[error("the quote in {text:?} is not closed")]
    Quote { text: String },
    #[error("conditions are joined by `and`, not {found:?}")]
    And { found: String },
    #[error("{column} takes {wanted}, not {found:?}")]
    Value { column: String, wanted: &'static str, found: String },
    #[error("{column} is not compared by {operator}: {cure}")]
    Unfit { column: String, operator: &'static str, cure: &'static str },
    #[error("there is no reason {found:?}; there are {}", reasons())]
    Reason { found: String },
}

fn names() -> String {
    COLUMNS.iter().map(|(name, ..)| *name).collect::<Vec<_>>().join(", ")
}

fn reasons() -> String {
    Reason::ALL.iter().map(|reason| reason.name()).chain([ROW_TOO_LARGE]).collect::<Vec<_>>().join(", ")
}

pub fn check_reason(reason: &str) -> Result<(), FilterError> {
    match reason == ROW_TOO_LARGE || Reason::ALL.iter().any(|known| known.name() == reason) {
        true => Ok(()),
        false => Err(FilterError::Reason { found: reason.to_owned() }),
    }
}

/// The first condition of `text`, and what follows it.
pub(super) fn condition(text: &str) -> Result<(Condition, &str), FilterError> {
    let end = text.find(|c: char| c.is_whitespace() || "=!<>~".contains(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let (column, kind) = column(name)?;
    let rest = rest.trim_start();
    let Some((sign, operator)) = OPERATORS.into_iter().find(|(sign, _)| rest.starts_with(sign)) else {
        let found = rest.split_whitespace().next().unwrap_or_default().to_owned();
        return Err(FilterError::Operator { after: name.to_owned(), found });
    };
    let (value, is_quoted, rest) = value(rest[sign.len()..].trim_start(), &format!("{name}{sign}"))?;
    let unfit = |cure| FilterError::Unfit { column: name.to_owned(), operator: sign, cure };
    if value == "null" && !is_quoted {
        let is_null = match operator {
            Operator::Equal => true,
            Operator::Unequal => false,
            _ => return Err(unfit("null is compared by = and !=")),
        };
        return Ok((Condition { column, test: Test::IsNull(is_null) }, rest));
    }
    if kind == Kind::Text {
        if column == Column::Reason && matches!(operator, Operator::Equal | Operator::Unequal) {
            check_reason(&value)?;
        }
        return Ok((Condition { column, test: Test::Text(operator, value) }, rest));
    }
    if operator == Operator::Contains {
        return Err(unfit("~ looks into texts"));
    }
    if kind == Kind::YesNo && !matches!(operator, Operator::Equal | Operator::Unequal) {
        return Err(unfit("use = or !="));
    }
    let (wanted, whole) = match kind {
        Kind::Day => ("a day, YYYY-MM-DD", time::date(value.as_bytes()).ok().map(i64::from)),
        Kind::Time => ("a time, such as 2025-01-15 or 2025-01-15T12:00:00Z", time::instant(&value)),
        Kind::YesNo => ("yes or no", [("yes", 1), ("no", 0)].iter().find(|(word, _)| *word == value).map(|(_, n)| *n)),
        Kind::Whole | Kind::Text => ("a whole number", value.parse().ok()),
    };
    match whole {
        Some(whole) => Ok((Condition { column, test: Test::Whole(operator, whole) }, rest)),
        None => Err(FilterError::Value { column: name.to_owned(), wanted, found: value }),
    }
}

fn column(name: &str) -> Result<(Column, Kind), FilterError> {
    if let Some(path) = name.strip_prefix("payload.")
        && path.split('.').all(|part| !part.is_empty())
    {
        return Ok((Column::Field(path.split('.').map(str::to_owned).collect()), Kind::Text));
    }
    let known = COLUMNS.iter().find(|(known, ..)| *known == name);
    let (_, column, kind, _) = known.ok_or_else(|| FilterError::Column { name: name.to_owned() })?;
    Ok((column.clone(), *kind))
}

/// A quoted value, in which the quote is doubled, or a word; whether it was quoted; and what follows.
fn value<'t>(text: &'t str, after: &str) -> Result<(String, bool, &'t str), FilterError> {
    let Some(quote) = text.chars().next().filter(|first| matches!(first, '\'' | '"')) else {
        let word = text.split_whitespace().next().unwrap_or_default();
        if word.is_empty() {
            return Err(FilterError::NoValue { after: after.to_owned() });
        }
        return Ok((word.to_owned(), false, &text[word.len()..]));
    };
    let mut value = String::new();
    let mut rest = &text[1..];
    loop {
        let Some(end) = rest.find(quote) else { return Err(FilterError::Quote { text: text.to_owned() }) };
        value.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix(quote) {
            Some(more) => {
                value.push(quote);
                rest = more;
            }
            None => return Ok((value, true, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::dlq::filter::Filter;
    use proptest::prelude::*;

    #[test]
    fn what_is_wrong_is_said() {
        for (text, told) in [
            ("reasons=x", "there is no column \"reasons\"; there are pipeline, stage"),
            ("", "there is no column \"\""),
            ("reason", "after \"reason\" comes one of = !="),
            ("reason is x", "not \"is\""),
            ("reason=", "a value is missing after \"reason=\""),
            ("reason=null_keys", "there is no reason \"null_keys\"; there are schema_validation_failed"),
            ("day>yesterday", "day takes a day, YYYY-MM-DD, not \"yesterday\""),
            ("offset=x", "offset takes a whole number"),
            ("time>2025", "time takes a time"),
            ("replayed=maybe", "replayed takes yes or no"),
            ("replayed>no", "replayed is not compared by >"),
            ("offset~1", "offset is not compared by ~"),
            ("key<null", "key is not compared by <"),
            ("key='x", "the quote in \"'x\" is not closed"),
            ("key=a b", "joined by `and`, not \"b\""),
            ("key=a or key=b", "joined by `and`, not \"or\""),
            ("key=a and", "there is no column \"\""),
            ("payload..x=1", "there is no column \"payload..x\""),
        ] {
            let error = Filter::default().add(text).unwrap_err().to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = Filter::default().add(&text);
        }
    }
}

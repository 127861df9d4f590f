//! A record's payload as one JSON object, in one pass over its bytes.
//!
//! Messages of a topic repeat the order of their fields, so the field after the one just read is
//! tried first and usually costs one comparison.

use super::{
    json::{JsonError, Problem, Scanner, Scratch, Span, Token},
    reason::{Reason, Rejection},
};
use std::collections::HashMap;

/// The fields that a decoder looks for, by their positions.
pub struct Fields {
    /// Each name in quotes, as it stands in a message when it needs no escapes.
    quoted: Vec<Vec<u8>>,
    by_name: HashMap<Vec<u8>, usize>,
}

/// So many names are sooner compared than hashed.
const FEW: usize = 8;

impl Fields {
    /// Of different names, in the order that messages are likely to have.
    pub fn new<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Self {
        Fields {
            quoted: names.clone().map(|name| format!("\"{name}\"").into_bytes()).collect(),
            by_name: names.enumerate().map(|(position, name)| (name.as_bytes().to_vec(), position)).collect(),
        }
    }

    fn position(&self, name: &[u8]) -> Option<usize> {
        if self.quoted.len() <= FEW {
            return self.quoted.iter().position(|quoted| quoted[1..quoted.len() - 1] == *name);
        }
        self.by_name.get(name).copied()
    }
}

/// A member of the object.
pub struct Member {
    /// Position of the field, or the name of one that is not looked for.
    pub field: Result<usize, Span>,
    pub token: Token,
    /// The text of the value.
    pub raw: Span,
    /// Where the text of the member stands, name and value.
    pub start: usize,
    pub end: usize,
}

/// Hands the members of the payload's object to `take`, together with what spans of the scratch buffer
/// point into, and gives the payload back. `take` says whether a field comes for the first time.
#[inline]
pub fn read<'a>(
    fields: &Fields,
    payload: Option<&'a [u8]>,
    scratch: &mut Scratch,
    take: impl FnMut(Member, &'a [u8], &[u8]) -> bool,
) -> Result<&'a [u8], Rejection> {
    let broken = |detail: &str| Err(Rejection::new(Reason::SchemaValidationFailed, detail));
    let Some(payload) = payload else { return broken("a tombstone: the record has no value") };
    if payload.is_empty() {
        return broken("the value is empty");
    }
    if payload.len() >= u32::MAX as usize {
        return broken("the value is larger than 4 GiB");
    }
    if simdutf8::basic::from_utf8(payload).is_err() {
        return broken("the value is not UTF-8");
    }
    match members(fields, payload, Scanner::new(payload, scratch), take) {
        Ok(()) => Ok(payload),
        Err(JsonError { at, problem }) => broken(&format!("{} (at byte {at})", problem.text())),
    }
}

#[inline]
fn members<'a>(
    fields: &Fields,
    payload: &'a [u8],
    mut scanner: Scanner<'_>,
    mut take: impl FnMut(Member, &'a [u8], &[u8]) -> bool,
) -> Result<(), JsonError> {
    scanner.skip_space();
    scanner.expect(b'{')?;
    scanner.skip_space();
    if scanner.peek() == Some(b'}') {
        scanner.expect(b'}')?;
        return scanner.end();
    }
    let mut expected = 0;
    loop {
        scanner.skip_space();
        let start = scanner.at();
        let field = match fields.quoted.get(expected) {
            Some(quoted) if scanner.take(quoted) => {
                scanner.skip_space();
                scanner.expect(b':')?;
                scanner.skip_space();
                Ok(expected)
            }
            _ => {
                let name = scanner.key()?;
                fields.position(name.of(payload, &scanner.scratch.bytes)).ok_or(name)
            }
        };
        let value_start = scanner.at();
        let token = scanner.value(1)?;
        match field {
            Ok(position) => expected = position + 1,
            Err(name) => scanner.remember(name),
        }
        let member = Member { field, token, raw: scanner.span(value_start), start, end: scanner.at() };
        if !take(member, payload, &scanner.scratch.bytes) {
            return scanner.fail(Problem::DuplicateKey);
        }
        scanner.skip_space();
        match scanner.peek() {
            Some(b',') => scanner.expect(b',')?,
            _ => {
                scanner.expect(b'}')?;
                scanner.check_keys(0)?;
                return scanner.end();
            }
        }
    }
}

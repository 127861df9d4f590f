//! A strict reader of JSON text (RFC 8259) that allocates nothing in the usual case.
//!
//! It gives tokens, not a tree: a string is a span of the text, or of a scratch buffer where it held
//! escapes; an array or object inside a value is checked and given as the span of its text. The same
//! name twice in one object, a lone surrogate, and nesting beyond 64 are refused. The text must be
//! valid UTF-8 already.

pub const MAX_DEPTH: u32 = 64;

/// What is wrong, and at which byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JsonError {
    pub at: usize,
    pub problem: Problem,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    Truncated,
    Unexpected,
    BadNumber,
    BadEscape,
    LoneSurrogate,
    ControlCharacter,
    DuplicateKey,
    TooDeep,
    Trailing,
}

impl Problem {
    pub fn text(self) -> &'static str {
        match self {
            Problem::Truncated => "the JSON ends early",
            Problem::Unexpected => "not JSON",
            Problem::BadNumber => "not a JSON number",
            Problem::BadEscape => "not a JSON escape",
            Problem::LoneSurrogate => "half of a surrogate pair",
            Problem::ControlCharacter => "a control character in a string",
            Problem::DuplicateKey => "the same key twice in one object",
            Problem::TooDeep => "nested deeper than 64",
            Problem::Trailing => "something follows the JSON object",
        }
    }
}

/// Bytes of the text, or of the scratch buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub start: u32,
    pub length: u32,
    pub scratch: bool,
}

impl Span {
    pub fn of<'a>(self, text: &'a [u8], scratch: &'a [u8]) -> &'a [u8] {
        let source = if self.scratch { scratch } else { text };
        &source[self.start as usize..][..self.length as usize]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    Null,
    Bool(bool),
    /// The number's text.
    Number(Span),
    /// The string's value.
    Text(Span),
    /// The text of an array or object, checked.
    Nested(Span),
}

impl Token {
    /// What it is, for people.
    pub fn text(self) -> &'static str {
        match self {
            Token::Null => "null",
            Token::Bool(_) => "a boolean",
            Token::Number(_) => "a number",
            Token::Text(_) => "a string",
            Token::Nested(_) => "an array or object",
        }
    }
}

/// Buffers that are kept from one text to the next.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Values of strings that held escapes.
    pub bytes: Vec<u8>,
    /// Keys of the objects that are open, the innermost last.
    keys: Vec<Span>,
}

pub struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    pub scratch: &'a mut Scratch,
}

type Scanned<T> = Result<T, JsonError>;

impl<'a> Scanner<'a> {
    /// A scanner of `text`, which is valid UTF-8 and shorter than 4 GiB.
    pub fn new(text: &'a [u8], scratch: &'a mut Scratch) -> Self {
        scratch.bytes.clear();
        scratch.keys.clear();
        Scanner { text, at: 0, scratch }
    }

    /// As [`Scanner::new`], with what the scratch buffer holds kept for earlier spans.
    pub fn continuing(text: &'a [u8], scratch: &'a mut Scratch) -> Self {
        Scanner { text, at: 0, scratch }
    }

    pub fn at(&self) -> usize {
        self.at
    }

    pub fn fail<T>(&self, problem: Problem) -> Scanned<T> {
        Err(JsonError { at: self.at, problem })
    }

    #[inline]
    pub fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    #[inline]
    pub fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// Takes `byte`, which must come next.
    #[inline]
    pub fn expect(&mut self, byte: u8) -> Scanned<()> {
        match self.peek() {
            Some(found) if found == byte => {
                self.at += 1;
                Ok(())
            }
            Some(_) => self.fail(Problem::Unexpected),
            None => self.fail(Problem::Truncated),
        }
    }

    /// Takes `literal` where it comes next.
    #[inline]
    pub fn take(&mut self, literal: &[u8]) -> bool {
        let found = self.text[self.at..].starts_with(literal);
        if found {
            self.at += literal.len();
        }
        found
    }

    /// Nothing but space may follow.
    pub fn end(&mut self) -> Scanned<()> {
        self.skip_space();
        if self.at == self.text.len() { Ok(()) } else { self.fail(Problem::Trailing) }
    }

    /// A value; `depth` is how many arrays and objects it stands in.
    #[inline]
    pub fn value(&mut self, depth: u32) -> Scanned<Token> {
        match self.peek() {
            Some(b'"') => Ok(Token::Text(self.string()?)),
            Some(b'-' | b'0'..=b'9') => Ok(Token::Number(self.number()?)),
            Some(b'{' | b'[') => {
                let start = self.at;
                self.nested(depth)?;
                Ok(Token::Nested(self.span(start)))
            }
            Some(b't') if self.take(b"true") => Ok(Token::Bool(true)),
            Some(b'f') if self.take(b"false") => Ok(Token::Bool(false)),
            Some(b'n') if self.take(b"null") => Ok(Token::Null),
            Some(_) if ["true", "false", "null"].iter().any(|word| word.as_bytes().starts_with(self.rest())) => {
                self.fail(Problem::Truncated)
            }
            Some(_) => self.fail(Problem::Unexpected),
            None => self.fail(Problem::Truncated),
        }
    }

    fn rest(&self) -> &[u8] {
        &self.text[self.at..]
    }

    /// From `start` to here.
    #[inline]
    pub fn span(&self, start: usize) -> Span {
        Span { start: start as u32, length: (self.at - start) as u32, scratch: false }
    }

    fn nested(&mut self, depth: u32) -> Scanned<()> {
        if depth >= MAX_DEPTH {
            return self.fail(Problem::TooDeep);
        }
        let object = self.peek() == Some(b'{');
        let close = if object { b'}' } else { b']' };
        self.at += 1;
        let first_key = self.scratch.keys.len();
        self.skip_space();
        if self.peek() == Some(close) {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.skip_space();
            if object {
                let key = self.key()?;
                self.scratch.keys.push(key);
            }
            self.value(depth + 1)?;
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(byte) if byte == close => {
                    self.at += 1;
                    return self.check_keys(first_key);
                }
                Some(_) => return self.fail(Problem::Unexpected),
                None => return self.fail(Problem::Truncated),
            }
        }
    }

    /// A key and its colon, up to the value.
    pub fn key(&mut self) -> Scanned<Span> {
        if self.peek() != Some(b'"') {
            return self.expect(b'"').map(|()| Span { start: 0, length: 0, scratch: false });
        }
        let key = self.string()?;
        self.skip_space();
        self.expect(b':')?;
        self.skip_space();
        Ok(key)
    }

    /// Remembers a key of the outermost object, for [`Scanner::check_keys`].
    pub fn remember(&mut self, key: Span) {
        self.scratch.keys.push(key);
    }

    /// Refuses a key that stands twice among those from `first` on, and forgets them.
    pub fn check_keys(&mut self, first: usize) -> Scanned<()> {
        let (text, Scratch { bytes, keys }) = (self.text, &mut *self.scratch);
        let found = &mut keys[first..];
        let twice = match found.len() {
            0 | 1 => false,
            count @ 2..=8 => {
                (1..count).any(|i| found[..i].iter().any(|earlier| earlier.of(text, bytes) == found[i].of(text, bytes)))
            }
            _ => {
                found.sort_unstable_by(|a, b| a.of(text, bytes).cmp(b.of(text, bytes)));
                found.windows(2).any(|pair| pair[0].of(text, bytes) == pair[1].of(text, bytes))
            }
        };
        keys.truncate(first);
        if twice { self.fail(Problem::DuplicateKey) } else { Ok(()) }
    }

    /// A number, by the grammar: no leading zeros or plus, digits on both sides of a point.
    #[inline]
    fn number(&mut self) -> Scanned<Span> {
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        match self.peek() {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.digits()?;
        }
        match self.peek() {
            // `01`, `1.2.3`, `1x`: what follows a number is a delimiter.
            Some(b'0'..=b'9' | b'.' | b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'+' | b'-') => self.fail(Problem::BadNumber),
            _ => Ok(self.span(start)),
        }
    }

    #[inline]
    fn digits(&mut self) -> Scanned<()> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        match self.at > start {
            true => Ok(()),
            false if self.at == self.text.len() => self.fail(Problem::Truncated),
            false => self.fail(Problem::BadNumber),
        }
    }

    /// A string, from its opening quote.
    #[inline]
    fn string(&mut self) -> Scanned<Span> {
        let start = self.at + 1;
        let stop = plain_end(self.text, start);
        match self.text.get(stop) {
            Some(b'"') => {
                self.at = stop + 1;
                Ok(Span { start: start as u32, length: (stop - start) as u32, scratch: false })
            }
            _ => self.escaped_string(start, stop),
        }
    }

    /// A string that holds escapes (or is bad): its plain part is `start..stop`.
    #[cold]
    fn escaped_string(&mut self, mut start: usize, mut stop: usize) -> Scanned<Span> {
        let begin = self.scratch.bytes.len();
        loop {
            self.scratch.bytes.extend_from_slice(&self.text[start..stop]);
            self.at = stop;
            match self.peek() {
                None => return self.fail(Problem::Truncated),
                Some(b'"') => break,
                Some(b'\\') => self.escape()?,
                Some(_) => return self.fail(Problem::ControlCharacter),
            }
            start = self.at;
            stop = plain_end(self.text, start);
        }
        self.at += 1;
        let length = self.scratch.bytes.len() - begin;
        Ok(Span { start: begin as u32, length: length as u32, scratch: true })
    }

    fn escape(&mut self) -> Scanned<()> {
        let Some(kind) = self.text.get(self.at + 1) else { return self.fail(Problem::Truncated) };
        let byte = match kind {
            b'"' | b'\\' | b'/' => *kind,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let mut code = self.hex4(self.at + 2)?;
                self.at += 6;
                if (0xd800..0xdc00).contains(&code) {
                    if !self.rest().starts_with(b"\\u") {
                        return self.fail(Problem::LoneSurrogate);
                    }
                    let low = self.hex4(self.at + 2)?;
                    if !(0xdc00..0xe000).contains(&low) {
                        return self.fail(Problem::LoneSurrogate);
                    }
                    self.at += 6;
                    code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
                }
                let Some(character) = char::from_u32(code) else { return self.fail(Problem::LoneSurrogate) };
                self.scratch.bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => return self.fail(Problem::BadEscape),
        };
        self.scratch.bytes.push(byte);
        self.at += 2;
        Ok(())
    }

    fn hex4(&self, at: usize) -> Scanned<u32> {
        let Some(digits) = self.text.get(at..at + 4) else { return self.fail(Problem::Truncated) };
        let mut value = 0;
        for digit in digits {
            let Some(digit) = char::from(*digit).to_digit(16) else { return self.fail(Problem::BadEscape) };
            value = value << 4 | digit;
        }
        Ok(value)
    }
}

/// First byte from `at` on that is a quote, a backslash or a control character; else the end.
#[inline]
fn plain_end(text: &[u8], mut at: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let zero_bytes = |word: u64| word.wrapping_sub(ONES) & !word;
    while let Some(chunk) = text[at..].first_chunk::<8>() {
        let word = u64::from_le_bytes(*chunk);
        let quote = zero_bytes(word ^ (ONES * u64::from(b'"')));
        let backslash = zero_bytes(word ^ (ONES * u64::from(b'\\')));
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let found = (quote | backslash | control) & HIGHS;
        if found != 0 {
            // Borrows can mark only bytes above the first true one.
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while let Some(byte) = text.get(at) {
        if matches!(byte, b'"' | b'\\' | 0..0x20) {
            break;
        }
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads one whole text.
    fn scan(text: &str) -> Result<(Token, Vec<u8>), Problem> {
        let mut scratch = Scratch::default();
        let mut scanner = Scanner::new(text.as_bytes(), &mut scratch);
        scanner.skip_space();
        let token = scanner.value(0).and_then(|token| scanner.end().map(|()| token)).map_err(|error| error.problem)?;
        let value = match token {
            Token::Text(span) | Token::Number(span) | Token::Nested(span) => {
                span.of(text.as_bytes(), &scratch.bytes).to_vec()
            }
            _ => Vec::new(),
        };
        Ok((token, value))
    }

    #[test]
    fn strings() {
        let value = |text: &str| scan(text).map(|(_, value)| String::from_utf8(value).unwrap());
        assert_eq!(value(r#""plain""#).unwrap(), "plain");
        assert_eq!(value(r#""a\"b\\c\/d\b\f\n\r\t""#).unwrap(), "a\"b\\c/d\u{8}\u{c}\n\r\t");
        assert_eq!(value(r#""\u00e9\uD83D\uDE00\u0000""#).unwrap(), "é😀\0");
        assert_eq!(value("\"é😀 long enough for two words\"").unwrap(), "é😀 long enough for two words");
        for lone in [r#""\ud800""#, r#""\udc00""#, r#""\ud800\u0041""#, r#""\ud800x""#] {
            assert_eq!(value(lone), Err(Problem::LoneSurrogate), "{lone}");
        }
        assert_eq!(value("\"a\nb\""), Err(Problem::ControlCharacter));
        assert_eq!(value("\"1234567\u{1}89\""), Err(Problem::ControlCharacter));
        assert_eq!(value(r#""\x""#), Err(Problem::BadEscape));
        assert_eq!(value(r#""\u12g4""#), Err(Problem::BadEscape));
        for cut in ["\"", "\"a", "\"\\", "\"\\u", "\"\\u12", "\"\\ud800\\u"] {
            assert_eq!(value(cut), Err(Problem::Truncated), "{cut}");
        }
    }

    #[test]
    fn numbers() {
        for good in ["0", "-0", "1", "10", "1.5", "-1.5e10", "1E+5", "1e-5", "0.0", "0e0"] {
            assert!(scan(good).is_ok(), "{good}");
        }
        for bad in [
            "-",
            "01",
            "+1",
            ".5",
            "1.",
            "1e",
            "1e+",
            "1.e5",
            "0x10",
            "NaN",
            "Infinity",
            "-Infinity",
            "1_000",
            "--1",
            "1..2",
        ] {
            assert!(scan(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn duplicate_keys_at_any_depth_also_when_escaped() {
        let many = |last: &str| {
            let keys: Vec<String> = (0..50).map(|i| format!("\"k{i}\":{i}")).collect();
            format!("{{{},\"{last}\":0}}", keys.join(","))
        };
        for bad in [
            r#"{"a":1,"a":2}"#.to_owned(),
            r#"{"a":1,"\u0061":2}"#.to_owned(),
            r#"[{"x":{"a":1,"b":2,"a":3}}]"#.to_owned(),
            many("k7"),
            many("\\u006b7"),
        ] {
            assert_eq!(scan(&bad), Err(Problem::DuplicateKey), "{bad}");
        }
        for good in [r#"{"a":{"a":1},"b":{"a":1}}"#.to_owned(), r#"[{"a":1},{"a":2}]"#.to_owned(), many("k50")] {
            assert!(scan(&good).is_ok(), "{good}");
        }
    }

    #[test]
    fn depth() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(scan(&nested(64)).is_ok());
        assert_eq!(scan(&nested(65)), Err(Problem::TooDeep));
        assert_eq!(scan(&"[".repeat(1 << 20)), Err(Problem::TooDeep));
        assert_eq!(scan(&"{\"a\":".repeat(1 << 18)), Err(Problem::TooDeep));
    }

    #[test]
    fn truncated_everywhere() {
        let whole = r#"{"a":[1,2.5e3,"x\u0041",true,false,null,{}],"b":{"c":[]}}"#;
        for cut in 0..whole.len() {
            assert!(scan(&whole[..cut]).is_err(), "{}", &whole[..cut]);
        }
        assert_eq!(scan(&format!("{whole} x")), Err(Problem::Trailing));
        assert!(scan(&format!(" {whole}\r\n\t ")).is_ok());
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Into::into),
                prop::collection::btree_map(any::<String>(), inner, 0..12)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn accepts_what_another_writer_writes(value in any_json()) {
            prop_assert!(scan(&value.to_string()).is_ok());
        }

        #[test]
        fn refuses_what_another_reader_refuses(text in "[\\[\\]{}\",:\\\\0-9eE+.a-u \u{1}-]{0,24}") {
            let theirs = serde_json::from_str::<serde_json::Value>(&text);
            match scan(&text) {
                Ok(_) => prop_assert!(theirs.is_ok(), "{}", text),
                // Ours refuses more, but only these.
                Err(Problem::DuplicateKey | Problem::LoneSurrogate) => {}
                Err(problem) => prop_assert!(theirs.is_err(), "{}: {:?}", text, problem),
            }
        }

        #[test]
        fn finds_the_end_of_plain_text_as_a_plain_loop_does(text in prop::collection::vec(any::<u8>(), 0..64)) {
            let plain = text.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20)).unwrap_or(text.len());
            prop_assert_eq!(plain_end(&text, 0), plain);
        }
    }
}

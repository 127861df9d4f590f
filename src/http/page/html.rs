//! Markup out of our own pieces and text of others, which cannot be confused: what is not written in the
//! source is escaped.

use crate::visible::visible;
use std::fmt::{self, Write};

/// A document, or a part of one.
#[derive(Debug, Default)]
pub struct Html(String);

impl Html {
    pub fn into_string(self) -> String {
        self.0
    }

    /// Markup of the source's own.
    pub fn raw(&mut self, markup: &'static str) -> &mut Html {
        self.0.push_str(markup);
        self
    }

    /// Text of anybody, as the content of an element or of a quoted attribute.
    pub fn text(&mut self, text: impl fmt::Display) -> &mut Html {
        // Writing to a string does not fail.
        let _ = write!(Escaped(&mut self.0), "{text}");
        self
    }
}

struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for char in visible(text).chars() {
            match char {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                char => self.0.push(char),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_never_markup() {
        let mut html = Html::default();
        html.raw("<b title=\"").text("\"onload='x'").raw("\">").text("</b><script>&\u{202e}").raw("</b>");
        let expected = "<b title=\"&quot;onload=&#39;x&#39;\">&lt;/b&gt;&lt;script&gt;&amp;\\u{202e}</b>";
        assert_eq!(html.into_string(), expected);
    }
}

//! The headers of a record as dead letters keep them: a JSON array of `[name, value]` in their order, for
//! names repeat; the value in base64, for it is bytes, or null. A name is bytes too: where it is no UTF-8,
//! its text is only for people and a third item holds its bytes in base64.

use base64::{Engine, engine::general_purpose::STANDARD};

/// The bytes of each name, and of its value unless that is null.
pub type Headers = Vec<(Vec<u8>, Option<Vec<u8>>)>;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is not a JSON array of [name, value in base64 or null]")]
pub struct HeadersError;

/// None where there are no headers.
pub fn encode(headers: &[(Vec<u8>, Option<Vec<u8>>)]) -> Option<String> {
    if headers.is_empty() {
        return None;
    }
    let item = |(name, value): &(Vec<u8>, Option<Vec<u8>>)| {
        let text = String::from_utf8_lossy(name);
        let mut item = vec![Some(text.clone().into_owned()), value.as_ref().map(|value| STANDARD.encode(value))];
        if text.as_bytes() != name.as_slice() {
            item.push(Some(STANDARD.encode(name)));
        }
        item
    };
    serde_json::to_string(&headers.iter().map(item).collect::<Vec<_>>()).ok()
}

/// What [`encode`] was given.
pub fn decode(text: Option<&str>) -> Result<Headers, HeadersError> {
    let Some(text) = text else { return Ok(Vec::new()) };
    let items: Vec<Vec<Option<String>>> = serde_json::from_str(text).map_err(|_| HeadersError)?;
    let bytes = |text: &str| STANDARD.decode(text).map_err(|_| HeadersError);
    let header = |item: Vec<Option<String>>| {
        let (name, value) = match item.as_slice() {
            [Some(name), value] => (name.clone().into_bytes(), value),
            [Some(_), value, Some(name)] => (bytes(name)?, value),
            _ => return Err(HeadersError),
        };
        Ok((name, value.as_deref().map(bytes).transpose()?))
    };
    items.into_iter().map(header).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_form_is_that_of_the_stored_letters() {
        let headers = [(b"h".to_vec(), Some(vec![0, 255])), (b"n\0".to_vec(), None), (vec![0xff], Some(vec![]))];
        let text = encode(&headers).unwrap();
        assert_eq!(text, "[[\"h\",\"AP8=\"],[\"n\\u0000\",null],[\"\u{fffd}\",\"\",\"/w==\"]]");
        assert_eq!(decode(Some(&text)).unwrap(), headers);
        assert_eq!((encode(&[]), decode(None)), (None, Ok(vec![])));
        for wrong in ["", "{}", "[[]]", "[[null,null]]", "[[\"a\",\"?\"]]", "[[\"a\",null,null]]", "[\"a\"]"] {
            assert_eq!(decode(Some(wrong)), Err(HeadersError), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_headers_are_read_as_they_were(headers: Headers) {
            prop_assert_eq!(decode(encode(&headers).as_deref()), Ok(headers));
        }
    }
}

//! The token that an API's peer shows: whoever knows it can read the run folder, which is its owner's alone.
//!
//! **Invariant:** the text is in its file and on its way only; it is never printed, and what is kept of it does not tell it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use blake3::Hash;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};

const SCHEME: &str = "Bearer ";

/// What a peer's token is compared with.
#[derive(Debug, Clone)]
pub(crate) struct Token(Hash);

impl Token {
    /// A new one: 256 random bits. Its text is for its file.
    pub(crate) fn make() -> (Self, String) {
        let text = Hash::from_bytes(rand::random()).to_hex().to_string();
        (Self(blake3::hash(text.as_bytes())), text)
    }

    /// Whether a request shows it.
    pub(super) fn is_in(&self, headers: &HeaderMap) -> bool {
        let shown = headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(SCHEME.as_bytes()));
        // Hashes are compared in constant time.
        shown.is_some_and(|text| blake3::hash(text) == self.0)
    }
}

/// The token that a request shows: by `Bearer`, or as git does, as the password of `Basic`.
pub(super) fn shown_in(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64.decode(rest.trim()).ok()?).ok()?;
    decoded.split_once(':').map(|(_, password)| password.to_owned())
}

/// How a client shows what it has read in the file.
pub(crate) fn shown(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("{SCHEME}{}", text.trim())).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_text_of_the_file_will_do() {
        let (token, text) = Token::make();
        assert_eq!(text.len(), 64);
        assert_ne!(Token::make().1, text);
        let is_in = |value: HeaderValue| token.is_in(&HeaderMap::from_iter([(AUTHORIZATION, value)]));
        assert!(is_in(shown(&format!("{text}\n")).expect("a value")));
        assert!(!is_in(HeaderValue::try_from(&text).expect("a value")), "without its scheme");
        for other in ["", &text[1..], &text.to_uppercase(), &Token::make().1] {
            assert!(!is_in(shown(other).expect("a value")), "{other}");
        }
        assert!(!token.is_in(&HeaderMap::new()));
        for told in [format!("{token:?}"), format!("{:?}", shown(&text))] {
            assert!(!told.contains(&text), "{told}");
        }
    }
}

//! Who may speak to the API: whoever shows the admin token.
//!
//! Invariant: the token is compared in constant time, is never logged, and is wiped from memory with its owner.

use std::fmt::Write as _;
use std::hint::black_box;

use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::status::ApiError;

/// A bearer token: 256 random bits as hex.
pub(crate) struct Token(Zeroizing<String>);

impl Token {
    pub(crate) fn random() -> Self {
        let bits: [u8; 32] = rand::random();
        let mut text = Zeroizing::new(String::with_capacity(64));
        for byte in bits {
            write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        }
        Self(text)
    }

    /// `None` unless the text looks like a token of ours (64 hex digits), so that an emptied file admits nobody.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let hex = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
        hex.then(|| Self(Zeroizing::new(text.to_owned())))
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

/// Decides whether a request is from the admin.
pub(crate) struct Auth {
    /// Digest, so that what is compared has one length and shares no prefix with a guess.
    admin: [u8; 32],
}

impl Auth {
    pub(crate) fn new(token: &Token) -> Self {
        Self {
            admin: Sha256::digest(token.reveal()).into(),
        }
    }

    /// `Ok` when the `Authorization` header bears the admin token.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let shown = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or(ApiError::Unauthorized)?;
        let shown: [u8; 32] = Sha256::digest(shown).into();
        let differing = shown
            .iter()
            .zip(&self.admin)
            .fold(0u8, |acc, (a, b)| acc | (a ^ b));
        if black_box(differing) == 0 {
            Ok(())
        } else {
            Err(ApiError::Unauthorized)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        headers
    }

    #[test]
    fn only_the_exact_token_is_admitted() {
        let token = Token::random();
        let auth = Auth::new(&token);
        assert!(
            auth.check(&headers(&format!("Bearer {}", token.reveal())))
                .is_ok()
        );
        assert!(
            auth.check(&headers(&format!("bearer {}", token.reveal())))
                .is_ok()
        );
        assert!(
            auth.check(&headers(&format!("Bearer {}", Token::random().reveal())))
                .is_err()
        );
        assert!(
            auth.check(&headers(&format!("Bearer {}", &token.reveal()[..63])))
                .is_err()
        );
        assert!(
            auth.check(&headers(&format!("Basic {}", token.reveal())))
                .is_err()
        );
        assert!(auth.check(&HeaderMap::new()).is_err());
    }

    #[test]
    fn a_truncated_token_file_admits_nobody() {
        assert!(Token::parse("").is_none());
        assert!(Token::parse("abc").is_none());
        assert!(Token::parse(&format!("{}\n", Token::random().reveal())).is_some());
    }
}

//! Join tokens: a short-lived secret that lets a node in, and the hash of the CA that it is to trust.
//!
//! A token is one line, `fairlead-join-1 ID.SECRET sha256:HASH`. The hash is that of the CA's public key, as kubeadm writes it. The API
//! keeps a Secret `bootstrap-token-ID` with the hash of the secret half and the end; the token itself is kept nowhere.

use std::{fmt, path::Path, str::FromStr, time::Duration};

use anyhow::{Context as _, Result, bail};
use fairlead_apiserver::member;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PostParams},
};
use rand::Rng as _;
use sha2::{Digest as _, Sha256};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// The first word of a token.
const MAGIC: &str = "fairlead-join-1";
/// The type of its Secret, as kubeadm has it.
const TYPE: &str = "bootstrap.kubernetes.io/token";
/// Longest life of a token: it is for adding a node today.
pub const MAX_TTL: Duration = Duration::from_hours(24);

/// SHA-256 of a CA's public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaHash(pub [u8; 32]);

/// A join token. Does not print its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    id: String,
    secret: String,
    /// The CA to trust.
    pub ca: CaHash,
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({}.., {})", self.id, self.ca)
    }
}

// === impl CaHash ===

impl CaHash {
    /// Of a certificate, DER; `None` if it is none.
    pub fn of_der(der: &[u8]) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let digest = Sha256::digest(certificate.tbs_certificate.subject_pki.raw);
        Some(Self(digest.into()))
    }

    /// Of a certificate, PEM.
    ///
    /// # Errors
    /// Text that is no certificate.
    pub fn of_pem(pem: &str) -> Result<Self> {
        use rustls::pki_types::{CertificateDer, pem::PemObject as _};
        let der = CertificateDer::from_pem_slice(pem.as_bytes());
        let hash = der.ok().and_then(|der| Self::of_der(&der));
        hash.context("this is no certificate")
    }
}

impl fmt::Display for CaHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for CaHash {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let hex = text.strip_prefix("sha256:").unwrap_or_default();
        if hex.len() != 64 || !hex.is_ascii() {
            bail!("`{text}` is no CA hash: it is sha256: and 64 hex digits");
        }
        let mut hash = [0; 32];
        for (byte, at) in hash.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&hex[at..at + 2], 16)
                .with_context(|| format!("`{text}` is no CA hash"))?;
        }
        Ok(Self(hash))
    }
}

// === impl JoinToken ===

impl JoinToken {
    /// A new one, not known to any API yet.
    pub fn random(ca: CaHash) -> Self {
        Self {
            id: word(6),
            secret: word(16),
            ca,
        }
    }

    /// The token of a file: its first line that is neither empty nor a comment.
    ///
    /// # Errors
    /// Names the file and what is wrong; never shows what is in it.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| {
            format!(
                "--token-file: read {} (make one with `fairlead appliance token create` on the node that serves the API)",
                path.display()
            )
        })?;
        let mut lines = text.lines().map(str::trim);
        let line = lines.find(|line| !line.is_empty() && !line.starts_with('#'));
        let line = line.with_context(|| format!("--token-file: {} is empty", path.display()))?;
        line.parse()
            .with_context(|| format!("--token-file {}", path.display()))
    }

    /// What the joining node shows.
    pub fn bearer(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }

    /// The line to hand over. A secret.
    pub fn reveal(&self) -> String {
        format!("{MAGIC} {} {}", self.bearer(), self.ca)
    }

    /// Makes it known to the API until `ttl` from `now`; expired ones go. Returns when it ends.
    ///
    /// # Errors
    /// The API's.
    ///
    /// # Cancel safety
    /// The token may be known.
    pub async fn publish(
        &self,
        client: Client,
        ttl: Duration,
        now: OffsetDateTime,
    ) -> Result<String> {
        let secrets: Api<Secret> = Api::namespaced(client, member::NAMESPACE);
        remove_expired(&secrets, now).await?;
        let end = (now + ttl).replace_nanosecond(0).context("write the end")?;
        let end = end.format(&Rfc3339).context("write the end")?;
        let entry = |key: &str, text: &str| (key.to_owned(), ByteString(text.as_bytes().to_vec()));
        let mut secret = Secret {
            data: Some(
                [
                    entry("token-id", &self.id),
                    entry(member::TOKEN_HASH, &member::hash(&self.secret)),
                    entry(member::TOKEN_EXPIRATION, &end),
                ]
                .into(),
            ),
            type_: Some(TYPE.to_owned()),
            ..Secret::default()
        };
        secret.metadata.name = Some(format!("{}{}", member::TOKEN_PREFIX, self.id));
        let made = secrets.create(&PostParams::default(), &secret).await;
        made.context("make the token known to the API")?;
        Ok(end)
    }
}

async fn remove_expired(secrets: &Api<Secret>, now: OffsetDateTime) -> Result<()> {
    let all = secrets.list(&ListParams::default()).await;
    for secret in all.context("list the tokens")?.items {
        let name = secret.metadata.name.unwrap_or_default();
        let data = secret.data.unwrap_or_default();
        let end = data.get(member::TOKEN_EXPIRATION);
        let end = end.and_then(|end| std::str::from_utf8(&end.0).ok());
        let end = end.and_then(|end| OffsetDateTime::parse(end, &Rfc3339).ok());
        if name.starts_with(member::TOKEN_PREFIX) && end.is_some_and(|end| end <= now) {
            secrets
                .delete(&name, &DeleteParams::default())
                .await
                .with_context(|| format!("remove the expired token {name}"))?;
        }
    }
    Ok(())
}

impl FromStr for JoinToken {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [MAGIC, bearer, ca] = words[..] else {
            bail!("this is no join token: it is one line, `{MAGIC} ID.SECRET sha256:HASH`");
        };
        let (id, secret) = bearer
            .split_once('.')
            .context("the token's second word must be ID.SECRET")?;
        let is_word = |text: &str, len: usize| {
            text.len() == len
                && text
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        if !is_word(id, 6) || !is_word(secret, 16) {
            bail!("the token's second word must be ID.SECRET, of 6 and 16 letters and digits");
        }
        Ok(Self {
            id: id.to_owned(),
            secret: secret.to_owned(),
            ca: ca.parse()?,
        })
    }
}

/// Random lower-case letters and digits: 5 bits each, and a bit more.
fn word(len: usize) -> String {
    const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut rng = rand::rng();
    let letter = |_| char::from(LETTERS[rng.random_range(0..LETTERS.len())]);
    (0..len).map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::{CaHash, JoinToken};

    #[test]
    fn a_token_reads_back_and_does_not_print() {
        let token = JoinToken::random(CaHash([7; 32]));
        let line = token.reveal();
        assert_eq!(line.parse::<JoinToken>().unwrap(), token);
        let (_, secret) = token
            .bearer()
            .split_once('.')
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .unwrap();
        assert!(!format!("{token:?}").contains(&secret));
    }

    #[test]
    fn what_is_wrong_with_a_token_is_said_and_the_token_is_not() {
        let hash = "0".repeat(64);
        for (bad, says) in [
            ("", "one line"),
            (
                "fairlead-join-2 abcdef.0123456789abcdef sha256:00",
                "one line",
            ),
            (
                format!("fairlead-join-1 abcdef sha256:{hash}").as_str(),
                "ID.SECRET",
            ),
            (
                format!("fairlead-join-1 abcdef.SECRETsecret0000 sha256:{hash}").as_str(),
                "6 and 16",
            ),
            (
                "fairlead-join-1 abcdef.0123456789abcdef sha256:12",
                "64 hex digits",
            ),
            (
                format!(
                    "fairlead-join-1 abcdef.0123456789abcdef sha256:zz{}",
                    &hash[2..]
                )
                .as_str(),
                "no CA hash",
            ),
        ] {
            let said = format!("{:#}", bad.parse::<JoinToken>().unwrap_err());
            assert!(said.contains(says), "{bad}: {said}");
            assert!(!said.contains("0123456789abcdef"), "{said}");
        }
    }
}

//! The API's own CA, made once and kept in the data directory, and the server certificate that it issues.
//!
//! Invariant: the CA never changes while its folder exists, because every kubeconfig handed out pins it. The server
//! certificate is made anew at each start and never written, so that it always covers the names it is asked to cover and its
//! key is nowhere to be stolen from.
//!
//! Neither certificate expires (RFC 5280 section 4.1.2.5: 99991231235959Z) and both are valid from a fixed moment in the past: a
//! private CA that clients pin gains nothing from a date, and machines without a clock battery start in the wrong year.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use rustls::server::WebPkiClientVerifier;

use crate::auth::Token;
use crate::config::{Config, OpenError};
use crate::copy::Authority;
use crate::{files, member};

/// What a server shows and what its clients are to trust.
pub(crate) struct Identity {
    pub(crate) server: Arc<rustls::ServerConfig>,
    /// The CA certificate, PEM.
    pub(crate) ca_pem: String,
    /// Signs for members.
    pub(crate) signer: Signer,
}

/// The CA, as it signs members' certificates.
pub(crate) struct Signer {
    issuer: Issuer<'static, KeyPair>,
    authority: Authority,
}

impl Signer {
    /// A client certificate for the key of a signing request, PEM. Nothing else of the request is believed.
    pub(crate) fn sign(
        &self,
        csr: &str,
        node: &str,
        lifetime: Duration,
    ) -> Result<String, rcgen::Error> {
        let mut request = CertificateSigningRequestParams::from_pem(csr)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named(node);
        params
            .distinguished_name
            .push(DnType::OrganizationName, member::ORGANISATION);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = crate::clock::now() + lifetime;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        request.params = params;
        Ok(request.signed_by(&self.issuer)?.pem())
    }

    /// What a successor needs.
    pub(crate) fn reveal(&self) -> Authority {
        self.authority.clone()
    }
}

/// Loads the CA from `<data_dir>/tls`, making it the first time, and issues a server certificate from it.
pub(crate) fn identity(config: &Config, admin: &Token) -> Result<Identity, OpenError> {
    let folder = config.data_dir.join("tls");
    files::private_dir(&folder)?;
    let (ca_key, ca_pem) = authority(&folder)?;
    let authority = Authority {
        ca_certificate: ca_pem.clone(),
        ca_key: ca_key.serialize_pem(),
        admin_token: admin.reveal().to_owned(),
    };
    let issuer = Issuer::from_ca_cert_pem(&ca_pem, ca_key).map_err(certificate)?;

    let key = KeyPair::generate().map_err(certificate)?;
    let mut params = CertificateParams::new(names(config)).map_err(certificate)?;
    params.distinguished_name = named("fairlead-apiserver");
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(9999, 12, 31);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let leaf = params.signed_by(&key, &issuer).map_err(certificate)?;

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let ca = CertificateDer::from_pem_slice(ca_pem.as_bytes())
        .map_err(|_not_pem| certificate(rcgen::Error::CouldNotParseCertificate))?;
    // The CA goes along: a node that joins knows only its hash.
    let chain: Vec<CertificateDer<'static>> = vec![leaf.der().clone(), ca.clone()];
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let tls = |source| OpenError::Tls {
        path: folder.clone(),
        source,
    };
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca).map_err(tls)?;
    // Members show a certificate; everybody else a token.
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| tls(rustls::Error::General(error.to_string())))?;
    let mut server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(tls)?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)
        .map_err(tls)?;
    // A resumed session would not look at the certificate again, which may have ended since.
    server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Identity {
        server: Arc::new(server),
        ca_pem,
        signer: Signer { issuer, authority },
    })
}

fn authority(folder: &Path) -> Result<(KeyPair, String), OpenError> {
    let (key_path, cert_path) = (folder.join("ca.key"), folder.join("ca.crt"));
    if let (Some(key), Some(cert)) = (files::read(&key_path)?, files::read(&cert_path)?) {
        return Ok((KeyPair::from_pem(&key).map_err(certificate)?, cert));
    }
    let key = KeyPair::generate().map_err(certificate)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = named("fairlead-ca");
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(9999, 12, 31);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let cert = params.self_signed(&key).map_err(certificate)?.pem();
    files::write_private(&key_path, key.serialize_pem().as_bytes())?;
    // The certificate goes last: without it the key is not used, so a crash in between only makes a new pair.
    files::write_private(&cert_path, cert.as_bytes())?;
    Ok((key, cert))
}

/// Every name under which the server may be dialled, each once.
fn names(config: &Config) -> Vec<String> {
    let mut names: BTreeSet<String> = [
        "localhost",
        "127.0.0.1",
        "::1",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
    ]
    .map(str::to_owned)
    .into();
    let listen = config.listen.ip();
    if !listen.is_unspecified() {
        names.insert(listen.to_string());
    }
    if let Some(host) = config.advertise_url.as_deref().and_then(host_of) {
        names.insert(host);
    }
    names.extend(
        config
            .sans
            .iter()
            .map(|san| san.trim_matches(['[', ']']).to_owned()),
    );
    names.into_iter().collect()
}

/// The host of `https://host:port/`, IPv6 without its brackets.
fn host_of(url: &str) -> Option<String> {
    let uri: axum::http::Uri = url.parse().ok()?;
    let host = uri.host()?.trim_matches(['[', ']']);
    Some(
        host.parse::<IpAddr>()
            .map_or_else(|_| host.to_owned(), |ip| ip.to_string()),
    )
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn certificate(source: rcgen::Error) -> OpenError {
    OpenError::Certificate { source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advertised_host_is_in_the_certificate() {
        let mut config = Config::new("/nowhere", "192.0.2.7:6443".parse().unwrap());
        config.advertise_url = Some("https://[2001:db8::1]:6443".into());
        config.sans = vec!["lb.example".into()];
        let names = names(&config);
        for name in ["192.0.2.7", "2001:db8::1", "lb.example", "localhost", "::1"] {
            assert!(
                names.contains(&name.to_owned()),
                "{name} missing in {names:?}"
            );
        }
    }

    #[test]
    fn the_ca_outlives_a_restart_and_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let config = Config::new(dir.path(), "127.0.0.1:0".parse().unwrap());
        let token = Token::random();
        let first = identity(&config, &token).unwrap().ca_pem;
        assert_eq!(first, identity(&config, &token).unwrap().ca_pem);
        let mode = std::fs::metadata(dir.path().join("tls/ca.key"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

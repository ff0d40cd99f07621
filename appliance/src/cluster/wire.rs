//! One request to one node of the group: HTTP/1.1 over TLS, the CA pinned either by itself or, at the first contact, by its hash.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use arc_swap::ArcSwapOption;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, StatusCode, body::Bytes, header};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        ResolvesClientCert, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    sign::CertifiedKey,
};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{copy::MAX_BYTES, token::CaHash};

/// A name that every embedded API's certificate has, wherever it is served.
pub const SERVER_NAME: &str = "kubernetes.default.svc";

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Nobody answers there, in time or at all, or it is not of this group.
    #[error("{to} cannot be reached")]
    Unreachable {
        /// Who was asked.
        to: SocketAddr,
        /// What went wrong.
        source: io::Error,
    },
    /// The connection broke.
    #[error("{to} did not answer")]
    Broken {
        /// Who was asked.
        to: SocketAddr,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It said no.
    #[error("{to} refused ({status}): {message}")]
    Refused {
        /// Who was asked.
        to: SocketAddr,
        /// HTTP status.
        status: StatusCode,
        /// What it said.
        message: String,
    },
}

impl WireError {
    /// The closed word for logs and the book.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "PeerUnreachable",
            Self::Broken { .. } => "PeerSilent",
            Self::Refused { .. } => "PeerRefused",
        }
    }

    /// Whether it does not know who asks, or not any more.
    pub fn is_unauthorized(&self) -> bool {
        match self {
            Self::Refused { status, .. } => *status == StatusCode::UNAUTHORIZED,
            // A certificate that has ended is refused by an alert.
            Self::Unreachable { .. } | Self::Broken { .. } => {
                matches!(self.tls(), Some(rustls::Error::AlertReceived(_)))
            }
        }
    }

    /// Whether the server is not of the group that was asked for.
    pub fn is_foreign(&self) -> bool {
        matches!(self.tls(), Some(rustls::Error::General(_)))
    }

    /// The TLS error behind it.
    fn tls(&self) -> Option<&rustls::Error> {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if let Some(tls) = error.downcast_ref::<rustls::Error>() {
                return Some(tls);
            }
            // An io::Error's own source skips what it wraps.
            let wrapped = error
                .downcast_ref::<io::Error>()
                .and_then(|error| error.get_ref())
                .map(|wrapped| wrapped as &(dyn std::error::Error + 'static));
            cause = wrapped.or_else(|| error.source());
        }
        None
    }
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// `GET` or `POST`.
    pub method: &'a Method,
    /// Path and query.
    pub path: &'a str,
    /// A token, where the certificate is not enough.
    pub bearer: Option<&'a str>,
    /// JSON.
    pub body: Option<&'a Value>,
    /// For all of it.
    pub deadline: Duration,
}

/// Who asks, and whom it trusts. Clones share the certificate that is shown.
#[derive(Debug, Clone)]
pub struct Wire {
    tls: Arc<ClientConfig>,
    shown: Arc<Shown>,
}

/// The certificate shown to servers that ask for one; it can be replaced while connections are made.
#[derive(Debug, Default)]
struct Shown(ArcSwapOption<CertifiedKey>);

impl ResolvesClientCert for Shown {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }

    fn has_certs(&self) -> bool {
        self.0.load().is_some()
    }
}

impl Wire {
    /// Trusts this CA, PEM.
    ///
    /// # Errors
    /// Text that is no certificate.
    pub fn trusting(ca: &str) -> Result<Self> {
        let ca = CertificateDer::from_pem_slice(ca.as_bytes());
        let ca = ca.ok().context("the CA's certificate cannot be read")?;
        let mut roots = RootCertStore::empty();
        roots.add(ca).context("use the CA's certificate")?;
        let builder = builder()?.with_root_certificates(roots);
        let shown = Arc::<Shown>::default();
        let tls = builder.with_client_cert_resolver(shown.clone());
        Ok(Self {
            tls: Arc::new(tls),
            shown,
        })
    }

    /// Trusts the CA with this hash, which the server must send along.
    ///
    /// # Errors
    /// None that a build of this program can have.
    pub fn pinning(hash: CaHash) -> Result<Self> {
        let verifier = Pinned {
            hash,
            provider: provider(),
        };
        let builder = builder()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let shown = Arc::<Shown>::default();
        let tls = builder.with_client_cert_resolver(shown.clone());
        Ok(Self {
            tls: Arc::new(tls),
            shown,
        })
    }

    /// Shows this certificate from the next connection on; both PEM.
    ///
    /// # Errors
    /// Names which of them cannot be used.
    pub fn show(&self, certificate: &str, key: &str) -> Result<()> {
        let chain: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(certificate.as_bytes()).collect();
        let chain = chain
            .ok()
            .context("the node's certificate cannot be read")?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes());
        let key = key.ok().context("the node's key cannot be read")?;
        let certified = CertifiedKey::from_der(chain, key, &provider())
            .context("use the node's certificate")?;
        self.shown.0.store(Some(Arc::new(certified)));
        Ok(())
    }

    /// For clients of other libraries.
    pub fn tls(&self) -> ClientConfig {
        ClientConfig::clone(&self.tls)
    }

    /// Asks.
    ///
    /// # Errors
    /// [`WireError`]; an answer other than 2xx and 304 is one.
    ///
    /// # Cancel safety
    /// The question may have been asked.
    pub async fn ask(
        &self,
        to: SocketAddr,
        ask: Ask<'_>,
    ) -> Result<(StatusCode, Bytes), WireError> {
        let asked = tokio::time::timeout(ask.deadline, self.exchange(to, ask));
        asked.await.unwrap_or_else(|_elapsed| {
            let source = io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
            Err(WireError::Unreachable { to, source })
        })
    }

    async fn exchange(
        &self,
        to: SocketAddr,
        ask: Ask<'_>,
    ) -> Result<(StatusCode, Bytes), WireError> {
        let unreachable = |source| WireError::Unreachable { to, source };
        let broken =
            |source: Box<dyn std::error::Error + Send + Sync>| WireError::Broken { to, source };
        let name = ServerName::try_from(SERVER_NAME).expect("a literal DNS name is one");
        let stream = TcpStream::connect(to).await.map_err(unreachable)?;
        let connector = TlsConnector::from(self.tls.clone());
        let stream = connector.connect(name, stream).await.map_err(unreachable)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(error.into()))?;
        let request = request(ask).map_err(|error| broken(error.into()))?;
        let answer = async move {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_BYTES)
                .collect()
                .await?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((status, body.to_bytes()))
        };
        tokio::pin!(answer);
        tokio::pin!(connection);
        let mut is_open = true;
        let (status, body) = loop {
            tokio::select! {
                answer = &mut answer => break answer.map_err(broken)?,
                ended = &mut connection, if is_open => {
                    // What was read before the end is still to be taken.
                    ended.map_err(|error| broken(error.into()))?;
                    is_open = false;
                }
            }
        };
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            return Ok((status, body));
        }
        let said: Option<Value> = serde_json::from_slice(&body).ok();
        let message = said.and_then(|said| Some(said["message"].as_str()?.to_owned()));
        Err(WireError::Refused {
            to,
            status,
            message: message.unwrap_or_default(),
        })
    }
}

fn request(ask: Ask<'_>) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
    let mut request = Request::builder()
        .method(ask.method)
        .uri(ask.path)
        .header(header::HOST, SERVER_NAME)
        .header(header::CONTENT_TYPE, "application/json");
    if let Some(bearer) = ask.bearer {
        request = request.header(header::AUTHORIZATION, format!("Bearer {bearer}"));
    }
    let body = ask.body.map(ToString::to_string).unwrap_or_default();
    request.body(Full::from(body))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>> {
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .context("set TLS up")
}

/// Accepts the chain of a CA that is known by its hash only.
#[derive(Debug)]
struct Pinned {
    hash: CaHash,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = |der: &&CertificateDer<'_>| CaHash::of_der(der) == Some(self.hash);
        let Some(ca) = intermediates.iter().find(pinned) else {
            return Err(rustls::Error::General(format!(
                "the server's CA is not the one of the join token ({})",
                self.hash
            )));
        };
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

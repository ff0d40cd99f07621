//! A client for the group's API, wherever it is served now: the name stays, the address behind it is a value that can be replaced.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
    vec,
};

use anyhow::Result;
use arc_swap::ArcSwap;
use hyper_util::{
    client::legacy::connect::{HttpConnector, dns::Name},
    rt::{TokioExecutor, TokioTimer},
};
use kube::client::ConfigExt as _;
use rustls::pki_types::ServerName;
use tower::{Service, ServiceBuilder};

use super::wire::{SERVER_NAME, Wire};

/// A LAN answers in milliseconds.
const CONNECT: Duration = Duration::from_secs(3);

/// Where the API is served now. Clones share it; empty means nowhere that is known.
#[derive(Debug, Clone, Default)]
pub struct Route(Arc<ArcSwap<Vec<SocketAddr>>>);

impl Route {
    /// From the next connection on.
    pub fn set(&self, to: Vec<SocketAddr>) {
        self.0.store(Arc::new(to));
    }

    /// As it is.
    pub fn now(&self) -> Arc<Vec<SocketAddr>> {
        self.0.load_full()
    }
}

/// Answers every name with the route.
impl Service<Name> for Route {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _name: Name) -> Self::Future {
        ready(Ok(self.now().as_ref().clone().into_iter()))
    }
}

/// A client whose connections follow the route and show the wire's certificate.
pub fn client(wire: &Wire, route: &Route) -> kube::Client {
    let mut http = HttpConnector::new_with_resolver(route.clone());
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(CONNECT));
    let name = ServerName::try_from(SERVER_NAME).expect("a literal DNS name is one");
    let https = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(wire.tls())
        .https_only()
        .with_server_name_resolver(hyper_rustls::FixedServerNameResolver::new(name))
        .enable_http1()
        .wrap_connector(http);
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .build(https);
    // No port: connections then keep the port of the route's address.
    let url = format!("https://{SERVER_NAME}");
    let config = kube::Config::new(url.parse().expect("a literal URL is one"));
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .service(http);
    kube::Client::new(service, "default")
}

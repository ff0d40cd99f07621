//! Asking one backend: a connection, or a GET over it.

use std::{net::SocketAddr, time::Duration};

use http_body_util::Empty;
use hyper::{Request, body::Bytes, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::{
    engine::Answer,
    settings::{Check, Kind},
};

/// Asks once; never takes longer than the check's timeout.
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub async fn ask(to: SocketAddr, check: &Check) -> Answer {
    let asked = tokio::time::timeout(check.timeout, attempt(to, &check.kind)).await;
    match asked {
        Ok(Ok(())) => Answer::Good,
        Ok(Err(why)) => Answer::Bad(why),
        Err(_elapsed) => Answer::Bad(format!("no answer within {}", time(check.timeout))),
    }
}

fn time(time: Duration) -> String {
    match time.as_millis() {
        ms if ms % 1000 == 0 => format!("{} s", ms / 1000),
        ms => format!("{ms} ms"),
    }
}

async fn attempt(to: SocketAddr, kind: &Kind) -> Result<(), String> {
    let stream = TcpStream::connect(to)
        .await
        .map_err(|error| error.kind().to_string())?;
    let Kind::Http { path, host } = kind else {
        return Ok(());
    };
    let broken = |error: hyper::Error| format!("it does not speak HTTP: {error}");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let host = host.clone().unwrap_or_else(|| to.to_string());
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, "fairlead-health")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let answer = sender.send_request(request);
    tokio::pin!(answer);
    let response = tokio::select! {
        response = &mut answer => response,
        // The connection ends by itself only when there is an answer, or never will be one.
        _ended = connection => answer.await,
    };
    let status = response.map_err(broken)?.status();
    if status.is_success() || status.is_redirection() {
        return Ok(());
    }
    Err(format!("it answers {}", status.as_u16()))
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, time::Duration};

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::ask;
    use crate::{
        engine::Answer,
        settings::{Check, Kind},
    };

    fn check(kind: Kind) -> Check {
        Check {
            kind,
            port: None,
            interval: Duration::from_secs(1),
            timeout: Duration::from_millis(300),
            failures: 3,
            successes: 2,
        }
    }

    fn http() -> Check {
        check(Kind::Http {
            path: "/ready".to_owned(),
            host: Some("shop.example".to_owned()),
        })
    }

    /// Answers each request by what its text says.
    async fn serve(listener: TcpListener) {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 1024];
            let n = stream.read(&mut request).await.unwrap();
            let text = String::from_utf8_lossy(&request[..n]).to_lowercase();
            let good = text.starts_with("get /ready ") && text.contains("host: shop.example\r\n");
            let status = if good { "204 No Content" } else { "503 Busy" };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        (listener, at)
    }

    #[tokio::test]
    async fn a_backend_is_well_if_it_answers_and_says_so() {
        let (web, at) = listener().await;
        let asks = async {
            assert_eq!(ask(at, &http()).await, Answer::Good);
            let mut other = http();
            other.kind = Kind::Http {
                path: "/".to_owned(),
                host: None,
            };
            assert_eq!(
                ask(at, &other).await,
                Answer::Bad("it answers 503".to_owned())
            );
        };
        tokio::select! {
            () = serve(web) => {}
            () = asks => {}
        }
    }

    #[tokio::test]
    async fn who_refuses_or_says_nothing_is_not() {
        let (silent, at) = listener().await;
        assert_eq!(ask(at, &check(Kind::Tcp)).await, Answer::Good);
        let nothing = Answer::Bad("no answer within 300 ms".to_owned());
        assert_eq!(ask(at, &http()).await, nothing);
        drop(silent);
        let refused = Answer::Bad("connection refused".to_owned());
        assert_eq!(ask(at, &check(Kind::Tcp)).await, refused);
    }
}

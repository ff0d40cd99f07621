//! What annotations on a Service say.

use std::{collections::BTreeMap, time::Duration};

use fairlead_api::names::annotation as names;

/// How a backend is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A connection is accepted.
    Tcp,
    /// `GET path` is answered with a status from 200 to 399.
    Http {
        /// Begins with `/`.
        path: String,
        /// The `Host` header; the backend's address if `None`.
        host: Option<String>,
    },
}

/// How the backends of one Service are checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// How.
    pub kind: Kind,
    /// On this port, not on the backend's own.
    pub port: Option<u16>,
    /// From one beginning to the next.
    pub interval: Duration,
    /// An answer that takes longer is none.
    pub timeout: Duration,
    /// So many failures in a row take a backend out.
    pub failures: u32,
    /// So many successes in a row bring it back.
    pub successes: u32,
}

/// What cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{annotation}: `{value}` {problem}")]
pub struct CheckError {
    annotation: &'static str,
    value: String,
    problem: &'static str,
}

impl CheckError {
    /// The closed word for conditions and the book.
    pub const fn reason(&self) -> &'static str {
        "HealthCheckInvalid"
    }
}

/// The check that a Service's annotations ask for; `None` if they ask for none.
///
/// # Errors
/// [`CheckError`] names the annotation and what it may say.
pub fn check(annotations: &BTreeMap<String, String>) -> Result<Option<Check>, CheckError> {
    let of = |name: &'static str| annotations.get(name).map(|value| (name, value.trim()));
    let bad = |(annotation, value): (&'static str, &str), problem| CheckError {
        annotation,
        value: value.to_owned(),
        problem,
    };
    let kind = match of(names::HEALTH_CHECK) {
        None | Some((_, "none")) => return Ok(None),
        Some((_, "tcp")) => Kind::Tcp,
        Some((_, "http")) => {
            let path = of(names::HEALTH_CHECK_PATH).unwrap_or((names::HEALTH_CHECK_PATH, "/"));
            if !path.1.starts_with('/')
                || path
                    .1
                    .contains(|c: char| c.is_whitespace() || c.is_control())
            {
                return Err(bad(path, "is no path such as /healthz"));
            }
            let host = of(names::HEALTH_CHECK_HOST);
            if let Some(host) = host
                && (host.1.is_empty() || !host.1.bytes().all(|b| b.is_ascii_graphic()))
            {
                return Err(bad(host, "is no host name"));
            }
            Kind::Http {
                path: path.1.to_owned(),
                host: host.map(|(_, host)| host.to_owned()),
            }
        }
        Some(other) => return Err(bad(other, "is none of tcp, http, none")),
    };
    let time = |name, default| match of(name) {
        None => Ok(default),
        Some(set) => match parse_time(set.1) {
            Some(time) if (SHORTEST..=LONGEST).contains(&time) => Ok(time),
            _ => Err(bad(
                set,
                "is no time from 100ms to 1h, such as 500ms, 5s or 1m",
            )),
        },
    };
    let count = |name, default| match of(name) {
        None => Ok(default),
        Some(set) => match set.1.parse() {
            Ok(count @ 1..=100) => Ok(count),
            _ => Err(bad(set, "is no number from 1 to 100")),
        },
    };
    let port = match of(names::HEALTH_CHECK_PORT) {
        None => None,
        Some(set) => match set.1.parse() {
            Ok(port @ 1..) => Some(port),
            _ => return Err(bad(set, "is no port number")),
        },
    };
    let interval = time(names::HEALTH_CHECK_INTERVAL, Duration::from_secs(1))?;
    Ok(Some(Check {
        kind,
        port,
        interval,
        timeout: time(names::HEALTH_CHECK_TIMEOUT, Duration::from_secs(1))?,
        failures: count(names::HEALTH_CHECK_FAILURES, 3)?,
        successes: count(names::HEALTH_CHECK_SUCCESSES, 2)?,
    }))
}

const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_hours(1);

/// A number and its unit.
fn parse_time(text: &str) -> Option<Duration> {
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
    units.iter().find_map(|(unit, ms)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        Some(Duration::from_millis(number.checked_mul(*ms)?))
    })
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::{Kind, check};

    fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pair = |(name, value): &(&str, &str)| {
            (
                format!("fairlead.io/health-check{name}"),
                (*value).to_owned(),
            )
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn defaults_are_a_second_and_three_failures() {
        assert_eq!(check(&BTreeMap::new()), Ok(None));
        assert_eq!(check(&annotations(&[("", "none")])), Ok(None));
        let tcp = check(&annotations(&[("", "tcp")])).unwrap().unwrap();
        let second = Duration::from_secs(1);
        assert_eq!(
            (tcp.kind, tcp.interval, tcp.timeout),
            (Kind::Tcp, second, second)
        );
        assert_eq!((tcp.failures, tcp.successes, tcp.port), (3, 2, None));
    }

    #[test]
    fn everything_can_be_said() {
        let all = annotations(&[
            ("", "http"),
            ("-path", "/ready"),
            ("-host", "shop.example"),
            ("-port", "8081"),
            ("-interval", "500ms"),
            ("-timeout", "2s"),
            ("-failures", "5"),
            ("-successes", "1"),
        ]);
        let http = check(&all).unwrap().unwrap();
        let kind = Kind::Http {
            path: "/ready".to_owned(),
            host: Some("shop.example".to_owned()),
        };
        assert_eq!((http.kind, http.port), (kind, Some(8081)));
        assert_eq!(
            (http.interval.as_millis(), http.timeout.as_millis()),
            (500, 2000)
        );
        assert_eq!((http.failures, http.successes), (5, 1));
    }

    #[test]
    fn what_cannot_be_used_names_its_annotation() {
        for (name, value) in [
            ("", "ping"),
            ("-path", "ready"),
            ("-path", "/a b"),
            ("-host", ""),
            ("-port", "0"),
            ("-port", "http"),
            ("-interval", "1"),
            ("-interval", "1ms"),
            ("-timeout", "2h"),
            ("-failures", "0"),
            ("-successes", "many"),
        ] {
            let mut all = annotations(&[("", "http")]);
            all.extend(annotations(&[(name, value)]));
            let error = check(&all).unwrap_err();
            let said = error.to_string();
            assert!(
                said.starts_with(&format!("fairlead.io/health-check{name}: `{value}`")),
                "{said}"
            );
        }
    }
}

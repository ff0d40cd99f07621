//! The configuration file, checked before it is used; and the way back to the last one that worked.
//!
//! ```text
//!  /etc/fairlead/appliance.yaml ──check──▶ the same as last time? ──▶ run
//!                                 │ no: on trial, until what was reachable before is again ──▶ it is the good one now
//!                                 ▼ refused, or cut off                     └─ not within the time ──▶ rejected
//!                         STATE/good.yaml ──▶ run, and say so
//! ```
//! A file's keys are the flags' names: `interface: [eth0]`, `listen: "[::]:6443"`. Flags are defined once, in [`crate::args`].
//! Read [`slots`] for what is on disk, [`trial`] for the decision, [`evidence`] for what counts as reachable.

pub mod check;
pub mod evidence;
pub mod slots;
pub mod supervise;
pub mod trial;

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use clap::Parser as _;
use serde_json::Value;

use crate::args::{Args, Cli};

/// The arguments that a configuration's text stands for.
///
/// # Errors
/// Names the key, or the place that is no YAML.
pub fn parse(text: &str) -> Result<Args> {
    let value: Value = serde_norway::from_str(text).context("it is no YAML")?;
    let map = match value {
        Value::Null => serde_json::Map::new(),
        Value::Object(map) => map,
        _ => bail!("it must be a map of flags, such as `interface: [eth0]`"),
    };
    let mut words = vec!["fairlead-appliance".to_owned()];
    for (key, value) in map {
        let is_name = key.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
        if !is_name
            || key.is_empty()
            || matches!(key.as_str(), "config" | "config-state" | "help" | "version")
        {
            bail!("{key}: there is no such key");
        }
        let values = match value {
            Value::Null => Vec::new(),
            Value::Array(values) => values,
            one => vec![one],
        };
        for value in values {
            let text = match value {
                Value::String(text) => text,
                Value::Number(number) => number.to_string(),
                Value::Bool(_) | Value::Null | Value::Array(_) | Value::Object(_) => {
                    bail!("{key}: must be text, a number or a list of these")
                }
            };
            words.push(format!("--{key}={text}"));
        }
    }
    match Cli::try_parse_from(words) {
        Ok(cli) => Ok(cli.run),
        Err(error) => {
            let said = error.render().to_string();
            // What follows the first empty line is about the command line.
            let lines = said.lines().map(str::trim);
            let lines: Vec<&str> = lines.take_while(|line| !line.is_empty()).collect();
            bail!("{}", lines.join(" ").trim_start_matches("error: "))
        }
    }
}

/// Reads and parses a file.
///
/// # Errors
/// Names the file and the key.
pub fn load(path: &Path) -> Result<Args> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    parse(&text).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn keys_are_the_flags_names() {
        let text = "interface: [eth0, eth1]\nlisten: '[::]:7443'\nnode-name: lb1\nmetrics-listen: 127.0.0.1:9962\n";
        let args = parse(text).unwrap();
        assert_eq!(args.interfaces, ["eth0", "eth1"]);
        assert_eq!(
            (args.listen.port(), args.node_name.as_deref()),
            (7443, Some("lb1"))
        );
        assert!(parse("# nothing\n").unwrap().interfaces.is_empty());
    }

    #[test]
    fn what_is_wrong_names_its_key() {
        for (text, says) in [
            ("interfaces: [eth0]\n", "--interfaces"),
            ("config: x\n", "config: there is no such key"),
            ("listen: here\n", "--listen"),
            ("interface: {a: b}\n", "interface: must be"),
            ("join: https://lb1:6443\n", "--token-file"),
            ("[a]\n", "map of flags"),
            ("a: [\n", "no YAML"),
        ] {
            let said = format!("{:#}", parse(text).unwrap_err());
            assert!(said.contains(says), "{text}: {said}");
        }
    }
}

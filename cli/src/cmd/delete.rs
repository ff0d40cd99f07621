//! `fairlead delete`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use fairlead_rt::clock;
use kube::api::{DeleteParams, GetParams, PropagationPolicy};
use kube::core::Request;
use serde_json::Value;

use super::{Asked, Output};
use crate::error::CliError;
use crate::objects::manifest::{self, text};
use crate::objects::{Kind, Objects, refused};

/// How often a deletion under way is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// What becomes of objects that the deleted one owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Cascade {
    /// They go after it
    Background,
    /// They go before it
    Foreground,
    /// They stay
    Orphan,
}

/// Options of `fairlead delete`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The kind: plural, singular or short name
    #[arg(required_unless_present = "filename", conflicts_with = "filename")]
    kind: Option<String>,
    /// The objects' names
    #[arg(required_unless_present = "filename", conflicts_with = "filename")]
    names: Vec<String>,
    /// Delete what a manifest, a folder of manifests, or - for standard input names
    #[arg(short, long, value_name = "FILE")]
    filename: Vec<PathBuf>,
    #[command(flatten)]
    pub place: Asked,
    /// What becomes of objects that the deleted one owns
    #[arg(long, value_enum, default_value = "background")]
    cascade: Cascade,
    /// Do not mind objects that are not there
    #[arg(long)]
    ignore_not_found: bool,
    /// Do not wait until they are gone
    #[arg(long)]
    no_wait: bool,
    /// How long to wait, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    timeout: u64,
}

/// One object that is to go.
struct Doomed<'a> {
    kind: &'a Kind,
    namespace: String,
    name: String,
}

/// Deletes in the order given (manifests: in reverse) and waits; one line per object.
///
/// # Errors
/// [`CliError::BadManifest`] and [`CliError::NoSuchKind`] before anything is deleted.
///
/// # Cancel safety
/// What was deleted is deleted.
pub async fn run(objects: &Objects, args: &Args) -> Result<Output, CliError> {
    let mut output = Output {
        text: String::new(),
        exit_code: 0,
        is_error: false,
    };
    for doomed in &doomed(objects, args)? {
        let title = format!("{}/{}", doomed.kind.title(), doomed.name);
        match delete(objects, doomed, args).await {
            Ok(word) => writeln!(output.text, "{title} {word}"),
            Err(error) => {
                output.exit_code = 1;
                writeln!(output.text, "{title} refused: {}", error.why())
            }
        }
        .expect("writing to a String cannot fail");
    }
    Ok(output)
}

fn doomed<'a>(objects: &'a Objects, args: &Args) -> Result<Vec<Doomed<'a>>, CliError> {
    let own = &args.place.namespace;
    let mut all = Vec::new();
    if let Some(word) = &args.kind {
        let kind = objects.kind(word)?;
        all.extend(args.names.iter().map(|name| Doomed {
            kind,
            namespace: own.clone(),
            name: name.clone(),
        }));
    }
    for file in &args.filename {
        for manifest in manifest::read(file)? {
            let namespace = match text(&manifest, "/metadata/namespace") {
                "" => own,
                named => named,
            };
            all.push(Doomed {
                kind: objects.kind_of(&manifest)?,
                namespace: namespace.to_owned(),
                name: text(&manifest, "/metadata/name").to_owned(),
            });
        }
    }
    if args.kind.is_none() {
        // What was made last may need what was made first.
        all.reverse();
    }
    Ok(all)
}

async fn delete(
    objects: &Objects,
    doomed: &Doomed<'_>,
    args: &Args,
) -> Result<&'static str, CliError> {
    let name = doomed.name.as_str();
    let folder = Request::new(doomed.kind.path(Some(&doomed.namespace)));
    let build = |error: kube::core::request::Error| refused(name)(kube::Error::BuildRequest(error));
    let params = DeleteParams {
        propagation_policy: Some(match args.cascade {
            Cascade::Background => PropagationPolicy::Background,
            Cascade::Foreground => PropagationPolicy::Foreground,
            Cascade::Orphan => PropagationPolicy::Orphan,
        }),
        ..DeleteParams::default()
    };
    let request = folder.delete(name, &params).map_err(build)?;
    match objects.client.request::<Value>(request).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 && args.ignore_not_found => {
            return Ok("was not there");
        }
        Err(error) => return Err(refused(name)(error)),
    }
    if args.no_wait {
        return Ok("is being deleted");
    }
    let deadline = clock::now() + Duration::from_secs(args.timeout);
    loop {
        let look = folder.get(name, &GetParams::default()).map_err(build)?;
        match objects.client.request::<Value>(look).await {
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok("deleted"),
            Ok(_) if clock::now() < deadline => tokio::time::sleep(LOOK).await,
            Ok(live) => {
                let held = live["metadata"]["finalizers"].to_string();
                return Err(CliError::StillThere {
                    name: name.to_owned(),
                    seconds: args.timeout,
                    held,
                });
            }
            Err(error) => return Err(refused(name)(error)),
        }
    }
}

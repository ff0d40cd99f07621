//! `fairlead apply`.

use std::fmt::Write as _;
use std::path::PathBuf;

use kube::api::{Patch, PatchParams, PostParams, ValidationDirective};
use kube::core::Request;
use serde_json::Value;

use super::{Asked, Output};
use crate::error::CliError;
use crate::objects::manifest::{self, text};
use crate::objects::merge::{last_applied, patch, recorded};
use crate::objects::{Kind, Objects, refused};

/// As which client we write.
const MANAGER: &str = "fairlead-cli";

/// Options of `fairlead apply`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A manifest, a folder of manifests, or - for standard input
    #[arg(short, long, value_name = "FILE", required = true)]
    filename: Vec<PathBuf>,
    #[command(flatten)]
    pub place: Asked,
    /// Say what would be done, as the API server judges it, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Creates what is missing and changes what differs; one line per object. Goes on after a refusal, and ends with exit code 1 then.
///
/// # Errors
/// [`CliError::BadManifest`] before anything is changed.
///
/// # Cancel safety
/// What was applied stays applied; applying again finishes it.
pub async fn run(objects: &Objects, args: &Args) -> Result<Output, CliError> {
    let mut manifests = Vec::new();
    for file in &args.filename {
        manifests.extend(manifest::read(file)?);
    }
    let mut output = Output {
        text: String::new(),
        exit_code: 0,
        is_error: false,
    };
    let suffix = if args.dry_run { " (dry run)" } else { "" };
    for manifest in &manifests {
        let (title, outcome) = match objects.kind_of(manifest) {
            Ok(kind) => {
                let title = format!("{}/{}", kind.title(), text(manifest, "/metadata/name"));
                (title, apply(objects, kind, manifest, args).await)
            }
            Err(unknown) => (text(manifest, "/metadata/name").to_owned(), Err(unknown)),
        };
        match outcome {
            Ok(word) => writeln!(output.text, "{title} {word}{suffix}"),
            Err(error) => {
                output.exit_code = 1;
                writeln!(output.text, "{title} refused: {}", error.why())
            }
        }
        .expect("writing to a String cannot fail");
    }
    Ok(output)
}

async fn apply(
    objects: &Objects,
    kind: &Kind,
    manifest: &Value,
    args: &Args,
) -> Result<&'static str, CliError> {
    let name = text(manifest, "/metadata/name");
    let namespace = match text(manifest, "/metadata/namespace") {
        "" => args.place.namespace.as_str(),
        own => own,
    };
    let folder = Request::new(kind.path(Some(namespace)));
    let build = |error: kube::core::request::Error| refused(name)(kube::Error::BuildRequest(error));
    let get = folder
        .get(name, &kube::api::GetParams::default())
        .map_err(build)?;
    let live: Option<Value> = match objects.client.request(get).await {
        Ok(live) => Some(live),
        Err(kube::Error::Api(status)) if status.code == 404 => None,
        Err(error) => return Err(refused(name)(error)),
    };
    let wanted = recorded(manifest);
    let Some(live) = live else {
        let params = PostParams {
            dry_run: args.dry_run,
            field_manager: Some(MANAGER.into()),
        };
        let mut create = folder
            .create(&params, wanted.to_string().into_bytes())
            .map_err(build)?;
        // kube's parameters for creating have no word for it.
        let strict = format!("{}&fieldValidation=Strict", create.uri());
        if let Ok(strict) = strict.parse() {
            *create.uri_mut() = strict;
        }
        let _made: Value = objects
            .client
            .request(create)
            .await
            .map_err(refused(name))?;
        return Ok("created");
    };
    let Some(patch) = patch(last_applied(&live).as_ref(), &wanted, &live) else {
        return Ok("unchanged");
    };
    let params = PatchParams {
        dry_run: args.dry_run,
        field_manager: Some(MANAGER.into()),
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::default()
    };
    let change = folder
        .patch(name, &params, &Patch::Merge(&patch))
        .map_err(build)?;
    let now: Value = objects
        .client
        .request(change)
        .await
        .map_err(refused(name))?;
    // Lists are sent whole, and what the server adds to their items differs from any manifest; it knows whether that matters.
    let same = |pointer: &str| text(&now, pointer) == text(&live, pointer);
    let unchanged = same("/metadata/resourceVersion") && !args.dry_run;
    Ok(if unchanged { "unchanged" } else { "configured" })
}

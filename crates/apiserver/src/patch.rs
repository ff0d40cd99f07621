//! The three patches: JSON (RFC 6902), merge (RFC 7396) and, for the built-in kinds, strategic merge.
//!
//! Server-side apply is refused with 415 until field ownership is kept: an apply that does not know who owns what would
//! silently take fields from their owners.

use axum::http::{HeaderMap, header};
use serde_json::Value;

use crate::decode::{self, Sent};
use crate::kinds::Served;
use crate::schema::Schema;
use crate::status::ApiError;
use crate::strategic;

/// A decoded patch.
#[derive(Debug, Clone)]
pub(crate) struct Patch {
    way: Way,
    /// Fields that the patch names twice.
    pub(crate) duplicates: Vec<String>,
}

#[derive(Debug, Clone)]
enum Way {
    Json(json_patch::Patch),
    Merge(Value),
    Strategic(Value),
}

impl Patch {
    pub(crate) fn parse(
        served: &Served,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Self, ApiError> {
        let media = headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let media = media.split(';').next().unwrap_or_default().trim();
        let bad = |error: serde_json::Error| {
            ApiError::bad_request(format!("error decoding patch: {error}"))
        };
        let object = |body: &[u8], way: fn(Value) -> Way| {
            let Sent { value, duplicates } = decode::json(body).map_err(bad)?;
            if value.is_object() {
                Ok(Self {
                    way: way(value),
                    duplicates,
                })
            } else {
                Err(ApiError::bad_request("a patch must be a JSON object"))
            }
        };
        match media {
            "application/json-patch+json" => Ok(Self {
                way: Way::Json(serde_json::from_slice(body).map_err(bad)?),
                duplicates: Vec::new(),
            }),
            "application/merge-patch+json" => object(body, Way::Merge),
            "application/strategic-merge-patch+json" if served.kind.rules.is_built_in() => {
                object(body, Way::Strategic)
            }
            "application/apply-patch+yaml" | "application/apply-patch+cbor" => Err(ApiError::UnsupportedMediaType {
                detail: "server-side apply is not supported: this API keeps no field ownership; \
                         use client-side apply (kubectl apply without --server-side) or a merge patch"
                    .into(),
            }),
            _ => {
                let strategic = if served.kind.rules.is_built_in() {
                    ", application/strategic-merge-patch+json"
                } else {
                    ""
                };
                Err(ApiError::UnsupportedMediaType {
                    detail: format!(
                        "the body of the request was in an unknown format - accepted media types include: \
                         application/json-patch+json, application/merge-patch+json{strategic}"
                    ),
                })
            }
        }
    }

    /// The object that the patch makes of `current`.
    pub(crate) fn apply(&self, schema: &Schema, current: &Value) -> Result<Value, ApiError> {
        let mut object = current.clone();
        match &self.way {
            Way::Json(patch) => json_patch::patch(&mut object, patch).map_err(|error| {
                ApiError::UnprocessablePatch {
                    detail: error.to_string(),
                }
            })?,
            Way::Merge(patch) => json_patch::merge(&mut object, patch),
            Way::Strategic(patch) => strategic::merge(schema, &mut object, patch)
                .map_err(|detail| ApiError::UnprocessablePatch { detail })?,
        }
        if object.is_object() {
            Ok(object)
        } else {
            Err(ApiError::UnprocessablePatch {
                detail: "the patch leaves no object".into(),
            })
        }
    }
}

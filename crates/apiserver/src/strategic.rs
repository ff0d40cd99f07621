//! Strategic merge patch: a merge patch that knows which lists are merged item by item.
//!
//! Source: Kubernetes' "Strategic Merge Patch" (sig-api-machinery), with its directives `$patch`, `$retainKeys`,
//! `$setElementOrder` and `$deleteFromPrimitiveList`. Which lists merge, and by which field, the schema says.
//!
//! One difference on purpose: ports of a Service are told apart by port *and protocol* as soon as a port number occurs
//! twice. Kubernetes uses the number alone and so turns 53/TCP into 53/UDP when 53/UDP is added (kubernetes #39188).

use std::collections::HashSet;

use serde_json::{Map, Value};

use crate::schema::{MergeList, Schema};

const PATCH: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE: &str = "$deleteFromPrimitiveList/";

/// Merges `patch` into `current`. The error says which directive is wrong.
pub(crate) fn merge(schema: &Schema, current: &mut Value, patch: &Value) -> Result<(), String> {
    match patch {
        Value::Object(fields) => merge_object(Some(schema), current, fields),
        _ => Err("the patch must be an object".into()),
    }
}

fn merge_object(
    schema: Option<&Schema>,
    current: &mut Value,
    patch: &Map<String, Value>,
) -> Result<(), String> {
    match directive(patch) {
        None | Some("merge") => {}
        Some("replace") => {
            let kept = patch.iter().filter(|(name, _)| *name != PATCH);
            *current = Value::Object(
                kept.map(|(name, value)| (name.clone(), value.clone()))
                    .collect(),
            );
            return Ok(());
        }
        Some("delete") => {
            *current = Value::Object(Map::new());
            return Ok(());
        }
        Some(other) => return Err(format!("{PATCH}: unknown directive {other:?}")),
    }
    if !current.is_object() {
        *current = Value::Object(Map::new());
    }
    let fields = current.as_object_mut().expect("made an object just above");
    drop_named(fields, patch)?;
    for (name, value) in patch.iter().filter(|(name, _)| !name.starts_with('$')) {
        let child =
            schema.and_then(|schema| schema.properties.get(name).or(schema.additional.as_deref()));
        match value {
            Value::Null => drop(fields.remove(name)),
            Value::Object(inner) => {
                merge_object(
                    child,
                    fields.entry(name.clone()).or_insert(Value::Null),
                    inner,
                )?;
            }
            Value::Array(items) => {
                let merged = match child.and_then(|schema| schema.merge.as_ref()) {
                    Some(strategy) => {
                        let order = list_at(patch, &format!("{ORDER}{name}"))?.unwrap_or_default();
                        let old = fields
                            .get(name)
                            .and_then(Value::as_array)
                            .cloned()
                            .unwrap_or_default();
                        let item = child.and_then(|schema| schema.items.as_deref());
                        merge_list(strategy, item, old, items, order)?
                    }
                    None => items.clone(),
                };
                fields.insert(name.clone(), Value::Array(merged));
            }
            scalar => drop(fields.insert(name.clone(), scalar.clone())),
        }
    }
    put_in_order(schema, fields, patch)
}

/// `$setElementOrder`.
fn put_in_order(
    schema: Option<&Schema>,
    fields: &mut Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<(), String> {
    for (name, order) in patch
        .iter()
        .filter_map(|(name, order)| Some((name.strip_prefix(ORDER)?, order)))
    {
        let order = order
            .as_array()
            .ok_or_else(|| format!("{ORDER}{name} must be a list"))?;
        let strategy = schema.and_then(|schema| schema.properties.get(name)?.merge.as_ref());
        if let (Some(Value::Array(items)), Some(strategy)) = (fields.get_mut(name), strategy) {
            reorder(strategy, items, order);
        }
    }
    Ok(())
}

fn directive(patch: &Map<String, Value>) -> Option<&str> {
    patch
        .get(PATCH)
        .map(|directive| directive.as_str().unwrap_or_default())
}

fn list_at<'a>(patch: &'a Map<String, Value>, name: &str) -> Result<Option<&'a [Value]>, String> {
    match patch.get(name) {
        None => Ok(None),
        Some(Value::Array(items)) => Ok(Some(items)),
        Some(_) => Err(format!("{name} must be a list")),
    }
}

/// `$retainKeys` and `$deleteFromPrimitiveList`.
fn drop_named(fields: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<(), String> {
    if let Some(retain) = list_at(patch, RETAIN)? {
        fields.retain(|name, _| retain.iter().any(|kept| kept == name.as_str()));
    }
    for name in patch.keys() {
        let Some(list) = name.strip_prefix(DELETE) else {
            continue;
        };
        let gone = list_at(patch, name)?.unwrap_or_default();
        if let Some(Value::Array(items)) = fields.get_mut(list) {
            items.retain(|item| !gone.contains(item));
        }
    }
    Ok(())
}

fn merge_list(
    strategy: &MergeList,
    item_schema: Option<&Schema>,
    mut items: Vec<Value>,
    patch: &[Value],
    order: &[Value],
) -> Result<Vec<Value>, String> {
    let MergeList::ByKey(key) = strategy else {
        let new = patch
            .iter()
            .filter(|value| !items.contains(value))
            .cloned()
            .collect::<Vec<_>>();
        items.extend(new);
        return Ok(items);
    };
    let directive = |value: &Value| value.as_object().and_then(directive).map(str::to_owned);
    if patch
        .iter()
        .any(|value| directive(value).as_deref() == Some("replace"))
    {
        return Ok(patch
            .iter()
            .filter(|value| directive(value).is_none())
            .cloned()
            .collect());
    }
    let by_protocol =
        key == "port" && (has_twins(key, &items) || has_twins(key, patch) || has_twins(key, order));
    let same = |a: &Value, b: &Value| {
        a.get(key) == b.get(key) && (!by_protocol || protocol(a) == protocol(b))
    };
    let mut unclear = Vec::new();
    for value in patch {
        let Value::Object(fields) = value else {
            return Err(format!("items of a list merged by {key} must be objects"));
        };
        if !fields.contains_key(key) {
            return Err(format!(
                "map: {value} does not contain declared merge key: {key}"
            ));
        }
        match directive(value).as_deref() {
            Some("delete") if by_protocol && value.get("protocol").is_none() => unclear.push(value),
            Some("delete") => items.retain(|item| !same(item, value)),
            None | Some("merge") => {
                let place = items.iter().position(|item| same(item, value));
                let place = place.unwrap_or_else(|| {
                    items.push(Value::Null);
                    items.len() - 1
                });
                merge_object(item_schema, &mut items[place], fields)?;
            }
            Some(other) => return Err(format!("{PATCH}: unknown directive {other:?}")),
        }
    }
    for gone in unclear {
        let keep = order
            .iter()
            .filter(|wanted| wanted.get(key) == gone.get(key))
            .count();
        let named = |item: &Value| {
            patch
                .iter()
                .any(|value| directive(value).is_none() && same(item, value))
        };
        delete_unclear(
            &mut items,
            keep,
            |item| item.get(key) == gone.get(key),
            named,
        );
    }
    Ok(items)
}

/// kubectl deletes one of two ports by their common number. Its order list says how many stay: those that the patch itself
/// names, then the first ones.
fn delete_unclear(
    items: &mut Vec<Value>,
    keep: usize,
    concerned: impl Fn(&Value) -> bool,
    named: impl Fn(&Value) -> bool,
) {
    let mut places: Vec<usize> = (0..items.len()).filter(|&n| concerned(&items[n])).collect();
    places.sort_by_key(|&n| !named(&items[n]));
    let mut gone: Vec<usize> = places.into_iter().skip(keep).collect();
    gone.sort_unstable();
    for place in gone.into_iter().rev() {
        items.remove(place);
    }
}

fn protocol(port: &Value) -> &str {
    port.get("protocol")
        .and_then(Value::as_str)
        .unwrap_or("TCP")
}

fn has_twins(key: &str, items: &[Value]) -> bool {
    let mut seen = HashSet::with_capacity(items.len());
    let values = items.iter().filter_map(|item| item.get(key));
    values
        .map(Value::to_string)
        .any(|value| !seen.insert(value))
}

/// Puts the items that `order` names into its order; the others stay where they are.
fn reorder(strategy: &MergeList, items: &mut [Value], order: &[Value]) {
    let rank = |item: &Value| match strategy {
        MergeList::Set => order.iter().position(|wanted| wanted == item),
        MergeList::ByKey(key) => order
            .iter()
            .position(|wanted| wanted.get(key) == item.get(key)),
    };
    let places: Vec<usize> = (0..items.len())
        .filter(|&n| rank(&items[n]).is_some())
        .collect();
    let mut named: Vec<Value> = places.iter().map(|&n| items[n].clone()).collect();
    named.sort_by_key(|item| rank(item));
    for (place, item) in places.into_iter().zip(named) {
        items[place] = item;
    }
}

#[cfg(test)]
mod tests;

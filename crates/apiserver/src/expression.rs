//! CEL rules of custom resources (`x-kubernetes-validations`).
//!
//! The language is the `cel` crate's (docs/adr); this file gives it what Kubernetes adds: `self` and `oldSelf` in the shape of
//! the schema, escaped names, transition rules, messages and reasons. A rule that uses what is not there is refused when the
//! definition is loaded, never ignored: `optionalOldSelf`, and Kubernetes' own functions but for `isIP` and `isCIDR`.
//! Strings with a format are strings here, also dates and durations.
//!
//! Source: apiextensions-apiserver `pkg/apiserver/schema/cel`; kubernetes.io, Common Expression Language in Kubernetes.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use cel::extractors::This;
use cel::objects::{Key, Map};
use cel::{Context, Env, Program, Value as Cel, extensions};
use serde_json::Value;

use crate::object::text;
use crate::schema::{Schema, Type};
use crate::status::{Cause, CauseReason};

/// Functions that an expression may call; operators aside.
const FUNCTIONS: &[&str] = &[
    "bool",
    "bytes",
    "contains",
    "double",
    "dyn",
    "endsWith",
    "int",
    "isCIDR",
    "isIP",
    "matches",
    "max",
    "min",
    "size",
    "startsWith",
    "string",
    "type",
    "uint", // The extension for strings.
    "charAt",
    "indexOf",
    "join",
    "lastIndexOf",
    "lowerAscii",
    "replace",
    "split",
    "substring",
    "trim",
    "upperAscii",
];
/// Words that cannot be names in an expression. Source: CEL's grammar and Kubernetes' list of reserved symbols.
const RESERVED: &[&str] = &[
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// One rule of a schema.
#[derive(Debug)]
pub(crate) struct Rule {
    program: Program,
    source: String,
    message: String,
    message_expression: Option<Program>,
    reason: CauseReason,
    /// Below the rule's own place, as in `.spec.ports`.
    field_path: String,
    /// Speaks of `oldSelf`, and so of changes only.
    is_transition: bool,
}

fn env() -> &'static Arc<Env> {
    static ENV: OnceLock<Arc<Env>> = OnceLock::new();
    ENV.get_or_init(|| {
        let mut env = Env::stdlib();
        env.add_extension(extensions::strings)
            .expect("the extension's names are not those of the standard functions");
        Arc::new(env)
    })
}

impl Rule {
    /// Compiles an entry of `x-kubernetes-validations`. The error says what is wrong with it.
    pub(crate) fn parse(rule: &Value) -> Result<Self, String> {
        let source = text(rule, "/rule").to_owned();
        if source.trim().is_empty() {
            return Err("rule: must be given".into());
        }
        if rule.get("optionalOldSelf") == Some(&Value::Bool(true)) {
            return Err("optionalOldSelf is not supported: leave it out".into());
        }
        let reason = match text(rule, "/reason") {
            "" | "FieldValueInvalid" => CauseReason::Invalid,
            "FieldValueForbidden" => CauseReason::Forbidden,
            "FieldValueRequired" => CauseReason::Required,
            "FieldValueDuplicate" => CauseReason::Duplicate,
            other => return Err(format!("reason: unknown value {other:?}")),
        };
        let field_path = text(rule, "/fieldPath").to_owned();
        let is_simple = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_');
        if !(field_path.is_empty()
            || field_path.starts_with('.') && field_path.chars().all(is_simple))
        {
            return Err(format!(
                "fieldPath: {field_path:?} must be names with a dot before each"
            ));
        }
        let program = compile(&source).map_err(|detail| format!("rule {source:?}: {detail}"))?;
        let message_expression = match text(rule, "/messageExpression") {
            "" => None,
            source => {
                Some(compile(source).map_err(|detail| format!("messageExpression: {detail}"))?)
            }
        };
        Ok(Self {
            is_transition: program.references().has_variable("oldSelf"),
            program,
            message: text(rule, "/message").to_owned(),
            message_expression,
            reason,
            field_path,
            source,
        })
    }

    /// Holds `value` against the rule; `old` is what it was, where that can be told.
    fn check(
        &self,
        schema: &Schema,
        value: &Value,
        old: Option<&Value>,
        path: &str,
    ) -> Option<Cause> {
        match (self.is_transition, old) {
            (true, None) => return None,
            // What was there before the rule may stay as it is.
            (false, Some(old)) if old == value => return None,
            _ => {}
        }
        let is_root = path.is_empty();
        let mut context = Context::with_env(env().clone());
        context.add_variable_from_value("self", to_cel(schema, value, is_root));
        if let Some(old) = old {
            context.add_variable_from_value("oldSelf", to_cel(schema, old, is_root));
        }
        add_functions(&mut context);
        let detail = match self.program.execute(&context) {
            Ok(Cel::Bool(true)) => return None,
            Ok(Cel::Bool(false)) => self.message(&context),
            Ok(_) => format!("rule {:?} is neither true nor false", self.source),
            Err(error) => format!("{error} evaluating rule: {}", self.plain_message()),
        };
        let field = match (path, self.field_path.as_str()) {
            // As Kubernetes names the whole object.
            ("", "") => "<nil>".to_owned(),
            ("", below) => below.trim_start_matches('.').to_owned(),
            (path, below) => format!("{path}{below}"),
        };
        let shown = Value::from(schema.kind.map_or("", Type::word));
        Some(match self.reason {
            CauseReason::Forbidden => Cause::forbidden(&field, &detail),
            CauseReason::Required => Cause::required(&field, &detail),
            CauseReason::Duplicate => Cause::duplicate(&field, &shown),
            _ => Cause::invalid(&field, &shown, &detail),
        })
    }

    fn plain_message(&self) -> String {
        if self.message.is_empty() {
            format!("failed rule: {}", self.source)
        } else {
            self.message.clone()
        }
    }

    fn message(&self, context: &Context<'_, '_>) -> String {
        let made = self
            .message_expression
            .as_ref()
            .and_then(|program| program.execute(context).ok());
        match made {
            Some(Cel::String(text)) if !text.trim().is_empty() && !text.contains('\n') => {
                text.to_string()
            }
            _ => self.plain_message(),
        }
    }
}

fn compile(source: &str) -> Result<Program, String> {
    let program = env().compile(source).map_err(|error| error.to_string())?;
    let references = program.references();
    let is_operator = |name: &str| name.contains(|c: char| !c.is_ascii_alphanumeric());
    if let Some(name) = references
        .functions()
        .into_iter()
        .find(|name| !is_operator(name) && !FUNCTIONS.contains(name))
    {
        return Err(format!("function {name:?} is not supported"));
    }
    if let Some(name) = references.variables().into_iter().find(|name| {
        !["self", "oldSelf"].contains(name) && !is_type(name) && !is_bound(source, name)
    }) {
        return Err(format!("{name:?} is neither self nor oldSelf"));
    }
    Ok(program)
}

/// Whether a macro binds the name, as `ip` in `self.ips.all(ip, isIP(ip))`.
fn is_bound(source: &str, name: &str) -> bool {
    let mut rest = source;
    while let Some(at) = rest.find(name) {
        let (before, after) = (&rest[..at], &rest[at + name.len()..]);
        let opens = before.trim_end().strip_suffix('(').map(str::trim_end);
        let is_macro = |head: &str| {
            ["all", "exists", "exists_one", "map", "filter"]
                .iter()
                .any(|word| head.ends_with(&format!(".{word}")))
        };
        if opens.is_some_and(is_macro) && after.trim_start().starts_with(',') {
            return true;
        }
        rest = after;
    }
    false
}

/// Names of types are variables to the parser, and so are those that macros bind, which begin with `@`.
fn is_type(name: &str) -> bool {
    const TYPES: &[&str] = &[
        "int",
        "uint",
        "double",
        "bool",
        "string",
        "bytes",
        "list",
        "map",
        "null_type",
        "type",
    ];
    name.starts_with('@') || TYPES.contains(&name)
}

fn add_functions(context: &mut Context<'_, '_>) {
    let added = context
        .add_function("isIP", |This(text): This<Arc<String>>| {
            text.parse::<std::net::IpAddr>().is_ok()
        })
        .and_then(|()| {
            context.add_function("isCIDR", |This(text): This<Arc<String>>| {
                text.contains('/') && text.parse::<ipnet::IpNet>().is_ok()
            })
        });
    added.expect("no other function has these names");
}

/// A value as expressions see it. Of an object's `metadata` they see the name.
fn to_cel(schema: &Schema, value: &Value, is_root: bool) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(flag) => Cel::Bool(*flag),
        Value::Number(number) => match number.as_i64() {
            Some(n) if schema.kind != Some(Type::Number) => Cel::Int(n),
            _ => Cel::Float(number.as_f64().unwrap_or_default()),
        },
        Value::String(text) => Cel::from(text.as_str()),
        Value::Array(items) => {
            let unknown = Schema::default();
            let schema = schema.items.as_deref().unwrap_or(&unknown);
            Cel::List(Arc::new(
                items
                    .iter()
                    .map(|item| to_cel(schema, item, false))
                    .collect(),
            ))
        }
        Value::Object(fields) => {
            let unknown = Schema::default();
            let mut map = HashMap::with_capacity(fields.len());
            for (name, value) in fields {
                let known = schema.properties.get(name);
                let below = known.or(schema.additional.as_deref()).unwrap_or(&unknown);
                let value = if is_root && name == "metadata" {
                    named(value)
                } else {
                    to_cel(below, value, false)
                };
                // Names of fields are escaped; keys of maps are data.
                let name = if known.is_some() {
                    escaped(name)
                } else {
                    name.clone()
                };
                map.insert(Key::String(Arc::new(name)), value);
            }
            Cel::Map(Map { map: Arc::new(map) })
        }
    }
}

fn named(metadata: &Value) -> Cel {
    let names = ["name", "generateName"].into_iter();
    let map = names
        .filter_map(|name| {
            let value = metadata.get(name)?.as_str()?;
            Some((Key::String(Arc::new(name.to_owned())), Cel::from(value)))
        })
        .collect();
    Cel::Map(Map { map: Arc::new(map) })
}

/// `namespace` is `__namespace__`, `a-b` is `a__dash__b`.
fn escaped(name: &str) -> String {
    if RESERVED.contains(&name) {
        return format!("__{name}__");
    }
    name.replace("__", "__underscores__")
        .replace('.', "__dot__")
        .replace('-', "__dash__")
        .replace('/', "__slash__")
}

impl Schema {
    /// Appends what the rules say against `value` and everything in it.
    pub(crate) fn check_rules(
        &self,
        value: &Value,
        old: Option<&Value>,
        path: &str,
        causes: &mut Vec<Cause>,
    ) {
        if !self.has_rules {
            return;
        }
        let told = self
            .rules
            .iter()
            .filter_map(|rule| rule.check(self, value, old, path));
        causes.extend(told);
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let below = self.properties.get(name).or(self.additional.as_deref());
                    if let Some(below) = below {
                        let old = old.and_then(|old| old.get(name));
                        below.check_rules(value, old, &crate::schema::join(path, name), causes);
                    }
                }
            }
            Value::Array(items) => {
                for (n, item) in items.iter().enumerate() {
                    if let Some(below) = &self.items {
                        let old = old.and_then(|old| self.same_item(item, old));
                        below.check_rules(item, old, &format!("{path}[{n}]"), causes);
                    }
                }
            }
            _ => {}
        }
    }

    /// The old item that `item` continues: only lists with keys can tell.
    fn same_item<'a>(&self, item: &Value, old: &'a Value) -> Option<&'a Value> {
        if self.list_map_keys.is_empty() {
            return None;
        }
        let same = |other: &&Value| {
            self.list_map_keys
                .iter()
                .all(|key| other.get(key) == item.get(key))
        };
        old.as_array()?.iter().find(same)
    }
}

#[cfg(test)]
mod tests;

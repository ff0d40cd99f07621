use super::*;
use crate::kinds::Registry;

/// `NUMBER: length-delimited`.
fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).unwrap();
    [&[number << 3 | 2, length], content].concat()
}

#[test]
fn every_message_of_the_table_is_a_definition_with_these_fields() {
    let registry = Registry::new(&[]).unwrap();
    for (message, fields) in &Protobuf::new().messages {
        let Some(definition) = registry.definitions.get(*message) else {
            // Parts of types that the schema writes in place, or that only answers hold.
            continue;
        };
        assert!(!fields.is_empty(), "{message}");
        let properties = definition["properties"].as_object().unwrap();
        for field in fields.values() {
            let known = properties.contains_key(field.name);
            // Withdrawn, or newer than the schemas: read past.
            let aside = [
                "externalID",
                "declaredFeatures",
                "ignoreStoreReadErrorWithClusterBreakingPotential",
            ];
            assert!(
                known || aside.contains(&field.name) || field.keeps_zero,
                "{message}.{}",
                field.name
            );
        }
    }
}

#[test]
fn every_kind_that_takes_objects_can_be_read() {
    let registry = Registry::new(&[]).unwrap();
    let table = Protobuf::new();
    for kind in registry
        .kinds
        .iter()
        .filter(|kind| kind.rules.verbs().contains(&"create"))
    {
        let name = kind.versions[0].definition.as_str();
        assert!(table.messages.contains_key(name), "{name}");
    }
}

/// `vectors.json`: objects as Go's own serializer (apimachinery v0.36.3) writes them, with what its JSON encoder makes of the
/// same objects.
#[test]
fn what_go_writes_reads_as_its_json() {
    let registry = Registry::new(&[]).unwrap();
    let vectors: Vec<Value> = serde_json::from_str(include_str!("vectors.json")).unwrap();
    for vector in &vectors {
        let definition = vector["definition"].as_str().unwrap();
        let hex = vector["bytes"].as_str().unwrap();
        let body: Vec<u8> = (0..hex.len() / 2)
            .map(|n| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).unwrap())
            .collect();
        let read = registry
            .protobuf
            .decode(&body, definition, &registry.definitions);
        let mut wanted = vector["json"].clone();
        drop_nulls(&mut wanted);
        assert_eq!(read.unwrap(), wanted, "{definition}");
    }
    assert_eq!(vectors.len(), 12);
}

/// Go writes a zero time as null, which is as good as nothing.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

#[test]
fn broken_bytes_are_refused_and_never_panic() {
    let registry = Registry::new(&[]).unwrap();
    let read = |body: &[u8]| {
        registry
            .protobuf
            .decode(body, "io.k8s.api.core.v1.Service", &registry.definitions)
    };
    assert_eq!(read(b"{}"), Err(ProtobufError::Magic));
    assert_eq!(read(b"k8s\0\x12\x05a"), Err(ProtobufError::Truncated));
    let spec = bytes(2, &bytes(3, &[0xff]));
    assert_eq!(
        read(&[MAGIC, &bytes(2, &spec)].concat()),
        Err(ProtobufError::Text {
            field: "clusterIP".into()
        })
    );
    let spec = bytes(2, &[3 << 3, 1]);
    assert_eq!(
        read(&[MAGIC, &bytes(2, &spec)].concat()),
        Err(ProtobufError::Mismatch {
            field: "clusterIP".into()
        })
    );
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_an_answer(body in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let registry = REGISTRY.get_or_init(|| Registry::new(&[]).unwrap());
        let body = [MAGIC, &body].concat();
        drop(registry.protobuf.decode(&body, "io.k8s.api.core.v1.Node", &registry.definitions));
    }
}

static REGISTRY: std::sync::OnceLock<Registry> = std::sync::OnceLock::new();

use super::*;

fn target(path: &str) -> Result<Target, ApiError> {
    Target::parse(&Registry::new(&[]).unwrap(), &segments(path).unwrap())
}

#[test]
fn paths_name_what_they_name_in_kubernetes() {
    let object = target("/api/v1/namespaces/default/services/web").unwrap();
    assert_eq!(&*object.served.kind.plural, "services");
    assert_eq!(
        (object.namespace.as_deref(), object.name.as_deref()),
        (Some("default"), Some("web"))
    );

    let namespace = target("/api/v1/namespaces/default").unwrap();
    assert_eq!(
        (&*namespace.served.kind.plural, namespace.name.as_deref()),
        ("namespaces", Some("default"))
    );
    assert_eq!(
        target("/api/v1/namespaces/default/status").unwrap().part,
        Part::Status
    );

    let all = target("/apis/discovery.k8s.io/v1/endpointslices").unwrap();
    assert_eq!((all.namespace, all.name), (None, None));
    assert_eq!(
        target("/api/v1/namespaces/a/services/b/status")
            .unwrap()
            .part,
        Part::Status
    );
}

#[test]
fn paths_that_name_nothing_are_not_found() {
    for path in [
        "/api/v1/pods",
        "/api/v1",
        "/api/v1/services/web",
        "/api/v1/namespaces/a/nodes",
        "/api/v1/namespaces/a/secrets/b/status",
        "/api/v1/namespaces/a/services/b/c/d",
        "/apis/discovery.k8s.io/v1beta1/endpointslices",
    ] {
        assert_eq!(target(path).unwrap_err().reason(), "NotFound", "{path}");
    }
}

#[test]
fn escapes_in_paths_are_undone_and_bad_ones_refused() {
    assert_eq!(segments("/a%2Db//c").unwrap(), ["a-b", "c"]);
    for bad in ["/a%2", "/a%zz", "/a%00", "/%ff"] {
        assert_eq!(segments(bad).unwrap_err().reason(), "BadRequest", "{bad}");
    }
}

#[test]
fn kubectl_gets_its_table_and_others_their_objects() {
    let wanted = |accept: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        Shape::wanted(&headers, &Params::default())
    };
    let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,\
                   application/json";
    assert_eq!(wanted(kubectl).unwrap(), Shape::Table(Include::Metadata));
    assert_eq!(
        wanted("application/vnd.kubernetes.protobuf, application/json").unwrap(),
        Shape::Object
    );
    assert_eq!(wanted("*/*").unwrap(), Shape::Object);
    let metadata = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    assert_eq!(wanted(metadata).unwrap(), Shape::Partial);
    assert_eq!(
        wanted("application/vnd.kubernetes.protobuf")
            .unwrap_err()
            .code(),
        StatusCode::NOT_ACCEPTABLE
    );
}

//! The table. Keys are those that Cilium's chart writes into `cilium-config` and those that its guides set by hand.
//!
//! Refused is what changes where packets go, who answers, or what a user was promised; ignored is what concerns a part of Cilium that
//! the cluster's own CNI plays here, or sizes and times of its tables.

use super::{Row, Treatment};

const OFF: &[&str] = &["false", ""];
const EMPTY: &[&str] = &[""];

// Reasons of keys that change nothing.
const PODS: &str = "pods get their network from the cluster's CNI";
const POLICY: &str = "network policy is enforced by the cluster's CNI";
const HUBBLE: &str = "flows are shown by the cluster's CNI, if it shows any";
const PROXY: &str = "no proxy runs here";
const MESH: &str = "clusters are connected by the cluster's CNI, if they are";
const SIZES: &str =
    "tables here have sizes of their own, and one that is full is said in a condition";
const NODE_PORTS: &str = "node ports and cluster IPs are kube-proxy's";
const TIMES: &str = "it paces a part that is not here";
const CNI: &str = "no CNI plugin is installed";
const OBJECTS: &str = "no such object is written";
const HOST: &str = "nothing here depends on it";

const fn row(key: &'static str, agent: Treatment, operator: Treatment) -> Row {
    Row {
        key,
        agent,
        operator,
    }
}

const fn agent(key: &'static str) -> Row {
    row(
        key,
        Treatment::Read,
        Treatment::Ignored("the agent reads it"),
    )
}

const fn operator(key: &'static str) -> Row {
    row(
        key,
        Treatment::Ignored("the operator reads it"),
        Treatment::Read,
    )
}

const fn both(key: &'static str) -> Row {
    row(key, Treatment::Read, Treatment::Read)
}

const fn ignored(key: &'static str, why: &'static str) -> Row {
    row(key, Treatment::Ignored(why), Treatment::Ignored(why))
}

const fn refused(key: &'static str, unless: &'static [&'static str], remedy: &'static str) -> Row {
    let treatment = Treatment::Refused { unless, remedy };
    row(key, treatment, treatment)
}

pub(super) const ROWS: &[&[Row]] = &[READ, SERVICES, ANNOUNCING, FEATURES, PODS_KEYS, OTHERS];

const READ: &[Row] = &[
    both(super::IGNORE),
    row(
        "k8s-kubeconfig-path",
        Treatment::Read,
        Treatment::Ignored("the flag --k8s-kubeconfig-path decides"),
    ),
    agent("node-name"),
    agent("devices"),
    agent("bpf-root"),
    agent("state-dir"),
    agent("enable-l2-announcements"),
    agent("bpf-lb-acceleration"),
    agent("bpf-lb-mode"),
    agent("bpf-lb-dsr-dispatch"),
    agent("fairlead-bpffs"),
    agent("fairlead-forwarding"),
    agent("fairlead-maglev-lines"),
    agent("fairlead-fold-after"),
    agent("fairlead-dad-probes"),
    agent("fairlead-dad-interval"),
    agent("fairlead-heartbeat-interval"),
    agent("fairlead-l2-deadline"),
    agent("fairlead-l2-lease-duration"),
    agent("fairlead-l2-conflict"),
    agent("fairlead-l2-failback"),
    agent("fairlead-socket"),
    agent("prometheus-serve-addr"),
    operator("enable-lb-ipam"),
    operator("default-lb-service-ipam"),
    operator("enable-node-ipam"),
    operator("enable-ipv4"),
    operator("enable-ipv6"),
    operator("bpf-lb-maglev-table-size"),
    operator("leader-election-lease-duration"),
    operator("leader-election-renew-deadline"),
    operator("leader-election-retry-period"),
    operator("operator-prometheus-serve-addr"),
];

const SERVICES: &[Row] = &[
    refused(
        "kube-proxy-replacement",
        &["false", "disabled", ""],
        "kube-proxy stays and serves cluster IPs and node ports: set false",
    ),
    refused(
        "kube-proxy-replacement-healthz-bind-address",
        EMPTY,
        "kube-proxy is not replaced: remove it",
    ),
    refused(
        "enable-node-port",
        OFF,
        "node ports are kube-proxy's: set false",
    ),
    refused(
        "enable-host-port",
        OFF,
        "host ports are the CNI's: set false",
    ),
    refused(
        "bpf-lb-sock",
        OFF,
        "connections of pods are kube-proxy's: set false",
    ),
    refused(
        "enable-host-reachable-services",
        OFF,
        "connections of the host are kube-proxy's: set false",
    ),
    ignored("bpf-lb-sock-*", NODE_PORTS),
    refused(
        "bpf-lb-algorithm",
        &["maglev"],
        "every table here is a Maglev table: set maglev",
    ),
    refused(
        "bpf-lb-algorithm-annotation",
        OFF,
        "every table here is a Maglev table: set false",
    ),
    ignored(
        "bpf-lb-mode-annotation",
        "the annotation of a Service is obeyed always",
    ),
    refused(
        "bpf-lb-maglev-hash-seed",
        &["JLfvgnHc2kaSUFaI"],
        "tables are equal on all nodes without a seed: remove it",
    ),
    refused(
        "bpf-lb-external-clusterip",
        OFF,
        "cluster IPs are kube-proxy's: set false, and give the Service type LoadBalancer",
    ),
    refused(
        "bpf-lb-source-range-all-types",
        OFF,
        "only load balancer addresses are served here: set false",
    ),
    ignored(
        "enable-svc-source-range-check",
        "condition SourceRangesNotEnforced on a Service says what is done",
    ),
    ignored(
        "enable-session-affinity",
        "condition SessionAffinityIgnored on a Service says what is done",
    ),
    ignored(
        "enable-external-ips",
        "external IPs are announced where a policy says so",
    ),
    refused(
        "enable-health-check-loadbalancer-ip",
        OFF,
        "the health check's port is not opened on load balancer addresses: set false",
    ),
    ignored("enable-health-check-nodeport", NODE_PORTS),
    ignored("node-port-*", NODE_PORTS),
    ignored("nodeport-addresses", NODE_PORTS),
    ignored("enable-auto-protect-node-port-range", NODE_PORTS),
    refused(
        "enable-service-topology",
        OFF,
        "hints of EndpointSlices are not obeyed: set false",
    ),
    refused(
        "service-no-backend-response",
        &["drop"],
        "packets to a Service without backends are dropped and counted: set drop",
    ),
    refused(
        "enable-no-service-endpoints-routable",
        &["true", ""],
        "a Service without backends stays announced: set true",
    ),
    refused(
        "enable-nat46x64-gateway",
        OFF,
        "families are not translated: set false",
    ),
    refused(
        "enable-ipip-termination",
        OFF,
        "servers unwrap by `fairlead-agent decap`: set false",
    ),
    refused(
        "bpf-lb-rss-ipv4-src-cidr",
        EMPTY,
        "the outer source is the node's address: remove it",
    ),
    refused(
        "bpf-lb-rss-ipv6-src-cidr",
        EMPTY,
        "the outer source is the node's address: remove it",
    ),
    refused(
        "k8s-service-proxy-name",
        EMPTY,
        "Services of every proxy are served: remove it",
    ),
    refused(
        "direct-routing-device",
        EMPTY,
        "the interface of a backend follows from the routes: remove it, and set devices",
    ),
    refused(
        "enable-dynamic-source-lookup-nodeport",
        OFF,
        "the source is the VIP or the node's address on the interface: set false",
    ),
    refused(
        "disable-external-ip-mitigation",
        OFF,
        "external IPs are as safe as who may write Services: set false",
    ),
    refused("enable-sctp", OFF, "SCTP is not served: set false"),
    refused(
        "loadbalancer-l7",
        &["disabled", ""],
        "no proxy runs here: set disabled",
    ),
    ignored("loadbalancer-l7-*", PROXY),
    ignored("bpf-lb-map-max", SIZES),
    ignored("bpf-lb-service-map-max", SIZES),
    ignored("bpf-lb-service-backend-map-max", SIZES),
    ignored("bpf-lb-rev-nat-map-max", SIZES),
    ignored("bpf-lb-affinity-map-max", SIZES),
    ignored("bpf-lb-source-range-map-max", SIZES),
    ignored("bpf-lb-maglev-map-max", SIZES),
    ignored("bpf-map-dynamic-size-ratio", SIZES),
    ignored("bpf-ct-*", SIZES),
    ignored("bpf-nat-*", SIZES),
    ignored("bpf-neigh-global-max", SIZES),
    ignored("bpf-fragments-map-max", SIZES),
    ignored("bpf-sock-rev-map-max", SIZES),
    ignored("bpf-distributed-lru", SIZES),
    ignored("preallocate-bpf-maps", SIZES),
    ignored(
        "enable-pmtu-discovery",
        "packets that became too big are answered always",
    ),
    ignored(
        "enable-l2-neigh-discovery",
        "the kernel keeps the neighbours of backends fresh always",
    ),
    ignored(
        "enable-k8s-endpoint-slice",
        "backends come from EndpointSlices always",
    ),
    ignored(
        "enable-k8s-terminating-endpoint",
        "terminating backends are drained always",
    ),
    ignored("enable-internal-traffic-policy", NODE_PORTS),
    ignored("lb-*", TIMES),
];

const ANNOUNCING: &[Row] = &[
    refused(
        "l2-announcements-lease-duration",
        &[],
        "heartbeats and probes decide who owns an address, within 300 ms, and the Lease only tells people: remove it",
    ),
    refused(
        "l2-announcements-renew-deadline",
        &[],
        "the Lease does not decide who owns an address: remove it",
    ),
    refused(
        "l2-announcements-retry-period",
        &[],
        "the Lease does not decide who owns an address: remove it",
    ),
    refused(
        "enable-l2-pod-announcements",
        OFF,
        "addresses of pods are not announced: set false",
    ),
    ignored("l2-pod-announcements-*", PODS),
    row(
        "enable-bgp-control-plane",
        Treatment::Refused {
            unless: OFF,
            remedy: "BGP is not spoken yet: set false, and announce by CiliumL2AnnouncementPolicy",
        },
        Treatment::Read,
    ),
    ignored("enable-bgp-*", "BGP is not spoken"),
    ignored("bgp-*", "BGP is not spoken"),
    ignored("agent-liveness-update-interval", TIMES),
    ignored(
        "k8s-client-qps",
        "writes are few and paced, and the API server has its own limits",
    ),
    ignored(
        "k8s-client-burst",
        "writes are few and paced, and the API server has its own limits",
    ),
];

const FEATURES: &[Row] = &[
    refused(
        "enable-egress-gateway",
        OFF,
        "there is no egress gateway: set false",
    ),
    refused(
        "enable-ipv4-egress-gateway",
        OFF,
        "there is no egress gateway: set false",
    ),
    refused(
        "enable-wireguard",
        OFF,
        "nothing is encrypted here: set false",
    ),
    refused("enable-ipsec", OFF, "nothing is encrypted here: set false"),
    refused(
        "enable-encryption-strict-mode*",
        OFF,
        "nothing is encrypted here: set false",
    ),
    refused(
        "enable-host-firewall",
        OFF,
        "hosts are not filtered here: set false",
    ),
    refused(
        "enable-bandwidth-manager",
        OFF,
        "bandwidth is not managed here: set false",
    ),
    refused(
        "enable-bbr",
        OFF,
        "congestion control is not set here: set false",
    ),
    refused(
        "enable-local-redirect-policy",
        OFF,
        "CiliumLocalRedirectPolicy is not served: set false",
    ),
    refused(
        "enable-ingress-controller",
        OFF,
        "no Ingress is served: set false",
    ),
    refused("enable-gateway-api", OFF, "no Gateway is served: set false"),
    refused("enable-envoy-config", OFF, "no proxy runs here: set false"),
    refused(
        "enable-vtep",
        OFF,
        "there is no VXLAN endpoint here: set false",
    ),
    refused(
        "enable-multicast",
        OFF,
        "multicast is not forwarded: set false",
    ),
    refused("enable-srv6", OFF, "there is no SRv6 here: set false"),
    refused(
        "kvstore",
        EMPTY,
        "state is in the Kubernetes API only: remove it",
    ),
    refused(
        "agent-health-port",
        &[],
        "an agent's health is on its socket, path /healthz: remove it",
    ),
    refused(
        "debug",
        OFF,
        "set the environment variable FAIRLEAD_LOG=debug instead",
    ),
    refused(
        "debug-verbose",
        EMPTY,
        "set the environment variable FAIRLEAD_LOG=debug instead",
    ),
    refused(
        "clean-cilium-state",
        OFF,
        "`fairlead-agent cleanup` removes what is left: remove it",
    ),
    refused(
        "clean-cilium-bpf-state",
        OFF,
        "`fairlead-agent cleanup` removes what is left: remove it",
    ),
    refused(
        "k8s-api-server",
        EMPTY,
        "set k8s-kubeconfig-path, or k8sServiceHost in the chart",
    ),
    refused(
        "k8s-api-server-urls",
        EMPTY,
        "set k8s-kubeconfig-path, or k8sServiceHost in the chart",
    ),
    refused(
        "k8s-namespace",
        EMPTY,
        "set the environment variable K8S_NAMESPACE instead",
    ),
];

const PODS_KEYS: &[Row] = &[
    ignored("ipam", PODS),
    ignored("ipam-*", PODS),
    ignored("cluster-pool-*", PODS),
    ignored("auto-create-cilium-pod-ip-pools", PODS),
    ignored("routing-mode", PODS),
    ignored("tunnel*", PODS),
    ignored("underlay-protocol", PODS),
    ignored("datapath-mode", PODS),
    ignored("auto-direct-node-routes", PODS),
    ignored("direct-routing-skip-unreachable", PODS),
    ignored("ipv4-*", PODS),
    ignored("ipv6-*", PODS),
    ignored("enable-ipv4-masquerade", PODS),
    ignored("enable-ipv6-masquerade", PODS),
    ignored("enable-bpf-masquerade", PODS),
    ignored("enable-masquerade-to-route-source", PODS),
    ignored("enable-remote-node-masquerade", PODS),
    ignored("enable-ip-masq-agent", PODS),
    ignored("masquerade*", PODS),
    ignored("egress-masquerade-interfaces", PODS),
    ignored("egress-gateway-*", PODS),
    ignored("enable-ipv4-big-tcp", PODS),
    ignored("enable-ipv6-big-tcp", PODS),
    ignored(
        "enable-ipv4-fragment-tracking",
        "fragments are forwarded always",
    ),
    ignored(
        "enable-ipv6-fragment-tracking",
        "fragments are forwarded always",
    ),
    ignored("enable-ipv6-ndp", PODS),
    ignored("enable-endpoint-routes", PODS),
    ignored("enable-endpoint-health-checking", PODS),
    ignored("enable-endpoint-lockdown-on-policy-overflow", POLICY),
    ignored("enable-health-checking", PODS),
    ignored("health-check-*", PODS),
    ignored("cluster-health-port", PODS),
    ignored("connectivity-probe-frequency-ratio", PODS),
    ignored("enable-host-legacy-routing", PODS),
    ignored("enable-local-node-route", PODS),
    ignored("enable-unreachable-routes", PODS),
    ignored("enable-source-ip-verification", PODS),
    ignored("enable-tcx", "programs attach by XDP links"),
    ignored("enable-xt-socket-fallback", PODS),
    ignored("install-*", PODS),
    ignored("iptables-*", PODS),
    ignored("mtu", PODS),
    ignored("packetization-layer-pmtud-mode", PODS),
    ignored("write-cni-conf-when-ready", CNI),
    ignored("read-cni-conf", CNI),
    ignored("cni-*", CNI),
    ignored("custom-cni-conf", CNI),
    ignored("k8s-require-*", PODS),
    ignored("enable-cilium-endpoint-slice", OBJECTS),
    ignored("disable-endpoint-crd", OBJECTS),
    ignored("ces-*", OBJECTS),
    ignored("cilium-endpoint-gc-interval", OBJECTS),
    ignored("nodes-gc-interval", OBJECTS),
    ignored("synchronize-k8s-nodes", OBJECTS),
    ignored("auto-create-cilium-node-resource", OBJECTS),
    ignored("annotate-k8s-node", OBJECTS),
    ignored("remove-cilium-node-taints", OBJECTS),
    ignored("set-cilium-*", OBJECTS),
    ignored("agent-not-ready-taint-key", OBJECTS),
    ignored("unmanaged-pod-watcher-interval", OBJECTS),
    ignored("skip-crd-creation", "the flag --create-crds decides"),
    ignored("encrypt-*", PODS),
    ignored("wireguard-*", PODS),
    ignored("ipsec-*", PODS),
    ignored("vtep-*", PODS),
    ignored("lrp-*", PODS),
    ignored("multicast-*", PODS),
    ignored("fqdn-*", POLICY),
    ignored("tofqdns-*", POLICY),
    ignored("dns-*", POLICY),
    ignored("dnsproxy-*", POLICY),
    ignored("identity-*", POLICY),
    ignored("labels", POLICY),
    ignored("node-labels", POLICY),
    ignored("enable-policy", POLICY),
    ignored("enable-policy-*", POLICY),
    ignored("policy-*", POLICY),
    ignored("bpf-policy-*", POLICY),
    ignored("enable-k8s-networkpolicy", POLICY),
    ignored("enable-cilium-network-policy", POLICY),
    ignored("enable-cilium-clusterwide-network-policy", POLICY),
    ignored("enable-non-default-deny-policies", POLICY),
    ignored("enable-well-known-identities", POLICY),
    ignored("enable-remote-node-identity", POLICY),
    ignored("enable-node-selector-labels", POLICY),
    ignored("enable-icmp-rules", POLICY),
    ignored("mesh-auth-*", POLICY),
    ignored("auth-*", POLICY),
];

const OTHERS: &[Row] = &[
    ignored("enable-hubble", HUBBLE),
    ignored("enable-hubble-*", HUBBLE),
    ignored("hubble-*", HUBBLE),
    ignored("monitor-*", HUBBLE),
    ignored("enable-monitor", HUBBLE),
    ignored("bpf-events-*", HUBBLE),
    ignored("bpf-conntrack-accounting", HUBBLE),
    ignored("trace-*", HUBBLE),
    ignored("nat-map-stats-*", HUBBLE),
    ignored("enable-l7-proxy", PROXY),
    ignored("enable-bpf-tproxy", PROXY),
    ignored("proxy-*", PROXY),
    ignored("http-*", PROXY),
    ignored("envoy-*", PROXY),
    ignored("external-envoy-proxy", PROXY),
    ignored("disable-envoy-version-check", PROXY),
    ignored("gateway-api-*", PROXY),
    ignored("enable-gateway-api-*", PROXY),
    ignored("ingress-*", PROXY),
    ignored("enable-ingress-*", PROXY),
    ignored("enforce-ingress-https", PROXY),
    ignored("cluster-name", MESH),
    ignored("cluster-id", MESH),
    ignored("clustermesh-*", MESH),
    ignored("enable-clustermesh-*", MESH),
    ignored("max-connected-clusters", MESH),
    ignored("kvstore-opt", MESH),
    ignored("etcd-config", MESH),
    ignored("enable-metrics", "metrics are collected always"),
    ignored("metrics", "every metric is shown"),
    ignored("metrics-*", TIMES),
    ignored("controller-group-metrics", TIMES),
    ignored(
        "operator-api-serve-addr",
        "the operator's health is beside its metrics",
    ),
    ignored("conntrack-gc-*", TIMES),
    ignored(
        "log-*",
        "the flag --log-format and the environment variable FAIRLEAD_LOG decide",
    ),
    ignored("pprof*", "it is for programs written in Go"),
    ignored("operator-pprof*", "it is for programs written in Go"),
    ignored("gops-port", "it is for programs written in Go"),
    ignored("enable-gops", "it is for programs written in Go"),
    ignored("enable-bpf-clock-probe", HOST),
    ignored(
        "enable-runtime-device-detection",
        "interfaces that come and go are followed always",
    ),
    ignored("procfs", HOST),
    ignored("cgroup-root", HOST),
    ignored("sysctl*", HOST),
    ignored("enable-k8s-api-discovery", HOST),
    ignored("enable-dynamic-config", HOST),
    ignored("enable-drift-checker", HOST),
    ignored("ignore-flags-drift-checker", HOST),
    ignored("enable-cilium-api-server-access", HOST),
    ignored("enable-cilium-health-api-server-access", HOST),
    ignored("api-rate-limit", HOST),
    ignored("config-sources", HOST),
    ignored("config-sources-overrides", HOST),
    ignored("enable-experimental-lb", HOST),
];

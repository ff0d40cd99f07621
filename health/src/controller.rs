//! The loop: watches in, questions out, answers in, conditions out.
//!
//! ```text
//! Services, EndpointSlices ──▶ ┌ one task ┐ ──▶ at most MAX_ASKED questions under way
//!            answers, due ───▶ │ engine   │ ──▶ one write per slice and per Service under way, MAX_EVENTS Events
//!                              └──────────┘
//! ```
//! Everything is owned here; nothing queues: a question that finds no place waits in the engine, a write that fails or comes too early is
//! decided anew at the next [`TICK`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use fairlead_api::{
    condition::{self, Status, Wanted},
    names::{condition::BACKENDS_HEALTHY, manager},
    watch::{feed, table::Table},
};
use fairlead_model::ServiceName;
use fairlead_rt::{BoxError, CancellationToken, Metrics, clock, metrics::prometheus_client};
use futures::{
    StreamExt as _,
    future::BoxFuture,
    stream::{FuturesUnordered, SelectAll, select_all},
};
use k8s_openapi::api::{
    core::v1::{Event, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
    runtime::watcher,
};
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use serde_json::json;

use crate::{
    engine::{Answer, Engine, Target, Turned, Verdict},
    plan, probe,
    settings::{self, Check},
};

/// Questions under way: enough for 1,000 backends of which a fifth time out.
const MAX_ASKED: usize = 256;
/// Events under way; further ones are lost, as Events may be.
const MAX_EVENTS: usize = 64;
/// One API call.
const DEADLINE: Duration = Duration::from_secs(5);
/// Between two looks at what is still to be written.
const TICK: Duration = Duration::from_secs(1);

#[expect(
    clippy::large_enum_variant,
    reason = "moved once, from the stream into its table"
)]
enum Change {
    Service(watcher::Event<Service>),
    Slice(watcher::Event<EndpointSlice>),
}

/// What a write was about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Slice(String),
    Service(ServiceName),
    Event(u64),
}

/// A Service, as far as it matters here.
#[derive(Debug, Clone, PartialEq)]
struct Wish {
    name: ServiceName,
    check: Result<Option<Arc<Check>>, settings::CheckError>,
    condition: Option<(String, String, String)>,
}

/// Checks until `stop` fires. Of the processes that share an API one runs this.
///
/// # Errors
/// None; the signature is that of a supervised task. An API that is away is asked again.
///
/// # Cancel safety
/// Nothing is lost: what slices say is read back.
pub async fn run(
    client: Client,
    metrics: Metrics,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    let mut controller = Controller::new(client, &metrics);
    tokio::select! {
        () = stop.cancelled() => {}
        () = controller.work() => {}
    }
    Ok(())
}

type Feed = SelectAll<futures::stream::BoxStream<'static, Option<Change>>>;

struct Controller {
    client: Client,
    feed: Feed,
    services: Table<Wish>,
    slices: Table<EndpointSlice>,
    engine: Engine,
    asked: FuturesUnordered<BoxFuture<'static, (Target, Answer)>>,
    writes: FuturesUnordered<BoxFuture<'static, Subject>>,
    writing: BTreeSet<Subject>,
    n_events: u64,
    is_dirty: bool,
    failing: Gauge,
    questions: Counter,
}

impl Controller {
    fn new(client: Client, metrics: &Metrics) -> Self {
        let services = feed::one("services", Api::all(client.clone()), Change::Service);
        let slices = feed::one("endpointslices", Api::all(client.clone()), Change::Slice);
        let (failing, questions) = (Gauge::default(), Counter::default());
        metrics.register("health", |registry| {
            let help = "Backends that fail their check, those kept included";
            registry.register("failing_backends", help, failing.clone());
            registry.register("questions", "Checks made", questions.clone());
        });
        Self {
            client,
            feed: select_all([services, slices]),
            services: Table::default(),
            slices: Table::default(),
            engine: Engine::default(),
            asked: FuturesUnordered::new(),
            writes: FuturesUnordered::new(),
            writing: BTreeSet::new(),
            n_events: 0,
            is_dirty: false,
            failing,
            questions,
        }
    }

    async fn work(&mut self) {
        let mut tick = tokio::time::interval(TICK);
        loop {
            let due = self
                .engine
                .next_due()
                .filter(|_| self.asked.len() < MAX_ASKED);
            let due = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                change = self.feed.next() => self.take(change.flatten()),
                Some((target, answer)) = self.asked.next() => self.heard(&target, answer),
                Some(subject) = self.writes.next() => {
                    self.writing.remove(&subject);
                }
                () = due => self.ask(),
                _ = tick.tick() => self.write(),
            }
        }
    }

    fn take(&mut self, change: Option<Change>) {
        match change {
            Some(Change::Service(event)) => {
                self.is_dirty |= !self.services.apply(map(event, |s| Ok(wish(s)))).is_empty();
            }
            Some(Change::Slice(event)) => {
                let keep =
                    |slice: &EndpointSlice| Ok(plan::service_of(slice).map(|_| slice.clone()));
                self.is_dirty |= !self.slices.apply(map(event, keep)).is_empty();
            }
            None => {}
        }
        // Lists come object by object: the tick sees them whole.
        if self.is_dirty && self.services.is_complete() && self.slices.is_complete() {
            self.plan();
        }
    }

    /// What is to be checked.
    fn plan(&mut self) {
        self.is_dirty = false;
        let mut wanted = BTreeMap::new();
        for slice in self.slices.iter() {
            let Some(name) = plan::service_of(slice) else {
                continue;
            };
            if let Some(check) = self.check_of(&name) {
                let targets = plan::targets(&name, slice, &check);
                wanted.extend(
                    targets
                        .into_iter()
                        .map(|(t, ready)| (t, (check.clone(), ready))),
                );
            }
        }
        self.engine.set(wanted, clock::now());
    }

    fn check_of(&self, name: &ServiceName) -> Option<Arc<Check>> {
        let wish = self.services.get(&name.to_string())?;
        wish.check.as_ref().ok()?.clone()
    }

    fn ask(&mut self) {
        let now = clock::now();
        while self.asked.len() < MAX_ASKED {
            let Some((target, check)) = self.engine.take_due(now) else {
                return;
            };
            self.questions.inc();
            self.asked.push(Box::pin(async move {
                let at = SocketAddr::new(target.addr, target.port);
                let answer = probe::ask(at, &check).await;
                (target, answer)
            }));
        }
    }

    fn heard(&mut self, target: &Target, answer: Answer) {
        if let Some(turned) = self.engine.report(target, answer, clock::now()) {
            self.say(&turned);
            self.write();
        }
    }

    /// An Event, and a line in the log.
    fn say(&mut self, turned: &Turned) {
        let Target {
            service,
            addr,
            port,
        } = &turned.target;
        let backend = SocketAddr::new(*addr, *port);
        let (type_, reason, message) = if let Some(why) = &turned.failure {
            tracing::warn!(svc = %service, backend = %backend, error = why, "the backend fails its check");
            let message = format!("{backend} fails its check: {why}");
            ("Warning", "BackendDown", message)
        } else {
            tracing::info!(svc = %service, backend = %backend, "the backend passes its check again");
            let message = format!("{backend} passes its check again");
            ("Normal", "BackendUp", message)
        };
        if self
            .writing
            .iter()
            .filter(|s| matches!(s, Subject::Event(_)))
            .count()
            >= MAX_EVENTS
        {
            return;
        }
        self.n_events += 1;
        let at = condition::time(clock::wall());
        let nanos = clock::wall()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos();
        let event = json!({
            "metadata": {"name": format!("{}.{nanos:x}", service.name()), "namespace": service.namespace()},
            "involvedObject": {"apiVersion": "v1", "kind": "Service", "namespace": service.namespace(), "name": service.name()},
            "type": type_, "reason": reason, "message": message, "count": 1,
            "firstTimestamp": at, "lastTimestamp": at, "source": {"component": manager::HEALTH},
        });
        let events: Api<Event> = Api::namespaced(self.client.clone(), service.namespace());
        self.start(Subject::Event(self.n_events), async move {
            let event: Event = serde_json::from_value(event).map_err(kube::Error::SerdeError)?;
            events
                .create(&PostParams::default(), &event)
                .await
                .map(drop)
        });
    }

    /// Writes what slices and Services do not say yet.
    fn write(&mut self) {
        if !(self.services.is_complete() && self.slices.is_complete()) {
            return;
        }
        let verdicts: BTreeMap<ServiceName, Verdict> = self
            .services
            .iter()
            .map(|wish| (wish.name.clone(), self.engine.verdict(&wish.name)))
            .collect();
        let failing: usize = verdicts.values().map(|verdict| verdict.failing.len()).sum();
        self.failing.set(i64::try_from(failing).unwrap_or(i64::MAX));
        let nothing = Verdict::default();
        let mut slices = Vec::new();
        for slice in self.slices.iter() {
            let Some(name) = plan::service_of(slice) else {
                continue;
            };
            let verdict = verdicts.get(&name).unwrap_or(&nothing);
            if let Some(patch) = plan::patch(slice, verdict) {
                slices.push((name, slice.name_any(), patch));
            }
        }
        let wishes = self.services.iter();
        let spoken =
            wishes.filter_map(|wish| Some((wish.name.clone(), said(wish, &verdicts[&wish.name])?)));
        let spoken: Vec<(ServiceName, Wanted)> = spoken.collect();
        for (service, name, patch) in slices {
            let key = format!("{}/{name}", service.namespace());
            let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), service.namespace());
            self.start(Subject::Slice(key), async move {
                let params = PatchParams::default();
                api.patch(&name, &params, &Patch::Merge(patch))
                    .await
                    .map(drop)
            });
        }
        for (service, wanted) in spoken {
            let api: Api<Service> = Api::namespaced(self.client.clone(), service.namespace());
            self.start(Subject::Service(service.clone()), async move {
                let mut conditions = Vec::new();
                let before = api
                    .get(service.name())
                    .await?
                    .status
                    .and_then(|s| s.conditions);
                conditions.extend(
                    before
                        .into_iter()
                        .flatten()
                        .filter(|c| c.type_ == wanted.type_),
                );
                condition::set(&mut conditions, &wanted, &condition::time(clock::wall()));
                // Merged by type: other writers' conditions stay.
                let patch = Patch::Strategic(json!({"status": {"conditions": conditions}}));
                api.patch_status(service.name(), &PatchParams::default(), &patch)
                    .await
                    .map(drop)
            });
        }
    }

    /// Begins a write, unless one about the same is under way.
    fn start(
        &mut self,
        subject: Subject,
        write: impl Future<Output = kube::Result<()>> + Send + 'static,
    ) {
        if !self.writing.insert(subject.clone()) {
            return;
        }
        self.writes.push(Box::pin(async move {
            match tokio::time::timeout(DEADLINE, write).await {
                Ok(Ok(())) => {}
                // It changed meanwhile, or is gone: the watch says so.
                Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {}
                Ok(Err(error)) => tracing::warn!(%error, "cannot write {subject:?} yet"),
                Err(_elapsed) => tracing::warn!("cannot write {subject:?} yet: no answer"),
            }
            // The watch brings what was written before the same is decided again.
            tokio::time::sleep(TICK / 4).await;
            subject
        }));
    }
}

/// The event with what `read` makes of its object, under `namespace/name`.
fn map<K: kube::Resource, R>(
    event: watcher::Event<K>,
    read: impl Fn(&K) -> Result<Option<R>, ()>,
) -> watcher::Event<(String, Result<Option<R>, ()>)> {
    let key = |object: &K| {
        format!(
            "{}/{}",
            object.namespace().unwrap_or_default(),
            object.name_any()
        )
    };
    match event {
        watcher::Event::Init => watcher::Event::Init,
        watcher::Event::InitApply(o) => watcher::Event::InitApply((key(&o), read(&o))),
        watcher::Event::InitDone => watcher::Event::InitDone,
        watcher::Event::Apply(o) => watcher::Event::Apply((key(&o), read(&o))),
        watcher::Event::Delete(o) => watcher::Event::Delete((key(&o), Ok(None))),
    }
}

/// A Service that has a check, or said something about one.
fn wish(service: &Service) -> Option<Wish> {
    let name = ServiceName::new(&service.namespace()?, &service.name_any()).ok()?;
    let check = settings::check(service.annotations()).map(|check| check.map(Arc::new));
    let conditions = service.status.as_ref().and_then(|s| s.conditions.as_ref());
    let condition = conditions.and_then(|all| condition::find(all, BACKENDS_HEALTHY));
    let condition = condition.map(|c| (c.status.clone(), c.reason.clone(), c.message.clone()));
    if matches!(check, Ok(None)) && condition.is_none() {
        return None;
    }
    Some(Wish {
        name,
        check,
        condition,
    })
}

/// The condition that a Service does not have yet.
fn said(wish: &Wish, verdict: &Verdict) -> Option<Wanted> {
    let wanted = match &wish.check {
        Ok(Some(_)) => plan::condition(verdict),
        Ok(None) => unknown("NotChecked", String::new()),
        Err(error) => unknown(error.reason(), error.to_string()),
    };
    let as_written = (
        wanted.status.as_str().to_owned(),
        wanted.reason.clone(),
        wanted.message.clone(),
    );
    (wish.condition.as_ref() != Some(&as_written)).then_some(wanted)
}

fn unknown(reason: &str, message: String) -> Wanted {
    Wanted {
        type_: BACKENDS_HEALTHY,
        status: Status::Unknown,
        reason: reason.to_owned(),
        message,
        observed_generation: None,
    }
}

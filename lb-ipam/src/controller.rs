//! The half that talks to the API server.
//!
//! ```text
//! Services ─┐ kube watchers            State ──lends──▶ alloc::Engine::run (a thread of its own when it is much)
//! Pools ────┴──(merged)──▶ run loop ──▶  ▲  ◀──delta───────┘
//!                             │          └── answers of writes
//!                             └──▶ at most WRITES patches of /status at a time ──▶ API server
//! ```
//! One task owns everything. Nothing is decided before both lists are whole; a write carries the resourceVersion that it was
//! decided on, so that the API server refuses it when the object changed meanwhile, and the decision is made anew. What cannot
//! be written is tried again with growing pauses, object by object: it disturbs no other. Read [`state`] for what is
//! remembered between plans, [`write`] for what is sent.

pub mod metrics;
pub mod state;
pub mod write;

mod feed;
mod usage;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::IpAddr,
    time::{Duration, Instant},
};

use fairlead_api::{
    AddressReservation, CiliumLoadBalancerIPPool, IPPoolUsage, ip_pool_usage::IPPoolUsageSpec,
    names::manager,
};
use fairlead_rt::{CancellationToken, Metrics, clock};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use k8s_openapi::api::core::v1;
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};

use crate::alloc::{Settings, engine::Engine};
use state::{Key, State, Verb, Written};
use write::Fault;

/// Patches under way at a time. An API server with a durable store groups writes that arrive together.
const WRITES: usize = 32;
/// Most events taken together before a plan is made, so that an endless storm still gets plans.
const BATCH: usize = 8192;

/// How late a sample or the end of a kept address may be.
const REMEMBER: Duration = Duration::from_secs(1);
/// Services that are decided about between two events; more go to a thread of their own.
const INLINE: usize = 64;

type Answer = (Key, Result<Written, Fault>);

/// LB-IPAM as a task.
pub struct Controller {
    client: Client,
    feed: feed::Feed,
    state: State,
    writes: FuturesUnordered<BoxFuture<'static, Answer>>,
    metrics: metrics::IpamMetrics,
    /// Events that no run has decided about yet.
    events: BTreeMap<metrics::EventLabel, u32>,
}

impl Controller {
    /// Begins nothing yet; metrics are registered as area `lbipam`.
    pub fn new(client: Client, settings: Settings, metrics: &Metrics) -> Self {
        Self {
            feed: feed::all(&client),
            state: State::new(settings),
            writes: FuturesUnordered::new(),
            metrics: metrics::IpamMetrics::register(metrics),
            events: BTreeMap::new(),
            client,
        }
    }

    /// Routers that are known here and on no Node: blocks that hold one are refused.
    #[must_use]
    pub fn with_gateways(mut self, gateways: &[IpAddr]) -> Self {
        self.state.set_gateways(gateways);
        self
    }

    /// Runs until `stop` fires; then writes under way are waited for, so that none lands after the next leader began.
    /// An API server that is away or refuses us is tried again for ever.
    ///
    /// # Cancel safety
    /// Dropping the future ends it; a write under way may still land.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Infallible> {
        loop {
            let now = clock::now();
            self.dispatch(now);
            let pause = self.wake_at(now);
            tokio::select! {
                () = stop.cancelled() => break,
                event = self.feed.next() => self.take_batch(event.expect("watchers never end")),
                Some(answer) = self.writes.next() => self.take_answer(answer),
                () = sleep_until(pause) => {}
            }
            self.replan().await;
            self.state.remember(clock::wall());
        }
        while let Some(answer) = self.writes.next().await {
            self.take_answer(answer);
        }
        Ok(())
    }

    /// When to go on though nothing happens.
    fn wake_at(&self, now: Instant) -> Option<Instant> {
        let wall = clock::wall();
        let remember = self.state.remember_at();
        let remember = remember.map(|at| now + at.duration_since(wall).unwrap_or_default());
        // Whole seconds on the wall: a little later is soon enough, and never too often.
        let remember = remember.map(|at| at + REMEMBER);
        self.state.wake_at(now).into_iter().chain(remember).min()
    }

    /// Takes an event and whatever has already arrived with it.
    fn take_batch(&mut self, first: Option<state::Change>) {
        let mut next = Some(first);
        for _ in 0..BATCH {
            let Some(event) = next else { break };
            if let Some(change) = event {
                if let Some(label) = change.label() {
                    *self.events.entry(label).or_default() += 1;
                }
                self.state.apply(change);
            }
            next = self.feed.next().now_or_never().flatten();
        }
    }

    async fn replan(&mut self) {
        // Answers that are already here belong into the same plan.
        while let Some(Some(answer)) = self.writes.next().now_or_never() {
            self.take_answer(answer);
        }
        // A run may end what it was told of an edit, which is one small run more.
        while let Some(engine) = self.state.take_engine() {
            self.run_engine(engine).await;
        }
    }

    async fn run_engine(&mut self, mut engine: Engine) {
        let begun = clock::now();
        let events = std::mem::take(&mut self.events);
        let (engine, delta) = if engine.n_due() <= INLINE {
            let delta = engine.run();
            (engine, delta)
        } else {
            let run = move || {
                let delta = engine.run();
                (engine, delta)
            };
            fairlead_rt::blocking(run).await
        };
        let took = clock::now().duration_since(begun);
        self.metrics.planned(&engine, took);
        self.metrics.processed(&events, took);
        self.state.take_delta(engine, delta, clock::wall());
    }

    fn dispatch(&mut self, now: Instant) {
        let wall = fairlead_api::condition::time(clock::wall());
        while self.writes.len() < WRITES {
            let Some(write) = self.state.next_write(now, &wall) else {
                return;
            };
            let client = self.client.clone();
            self.writes.push(
                async move {
                    let answer = send(client, &write).await;
                    (write.key, answer)
                }
                .boxed(),
            );
        }
    }

    fn take_answer(&mut self, (key, answer): Answer) {
        if let Err(fault) = &answer {
            self.metrics.failed(fault);
            fault.report(&key);
        }
        self.state.written(&key, answer, clock::now());
    }
}

async fn send(client: Client, write: &state::Write) -> Result<Written, Fault> {
    match tokio::time::timeout(write::DEADLINE, answer(client, write)).await {
        Ok(answer) => answer.map_err(Fault::of),
        Err(_elapsed) => Err(Fault::Timeout),
    }
}

async fn answer(client: Client, write: &state::Write) -> Result<Written, kube::Error> {
    let manager = Some(manager::LB_IPAM.to_owned());
    let params = PatchParams {
        field_manager: manager.clone(),
        ..PatchParams::default()
    };
    let usages = || Api::<IPPoolUsage>::all(client.clone());
    let patch = match &write.verb {
        Verb::Patch(body) => Patch::Json::<()>(body.clone()),
        Verb::MakeUsage(name) => {
            let params = PostParams {
                field_manager: manager,
                ..PostParams::default()
            };
            let object = IPPoolUsage::new(name, IPPoolUsageSpec::default());
            let object = usages().create(&params, &object).await?;
            return Ok(Written::Usage(Some(Box::new(object))));
        }
        Verb::DropUsage(name) => {
            usages().delete(name, &DeleteParams::default()).await?;
            return Ok(Written::Usage(None));
        }
    };
    Ok(match &write.key {
        Key::Service(name) => {
            let api = Api::<v1::Service>::namespaced(client, name.namespace());
            let object = api.patch_status(name.name(), &params, &patch).await?;
            Written::Service(Box::new(object))
        }
        Key::Pool(name) => {
            let api = Api::<CiliumLoadBalancerIPPool>::all(client);
            Written::Pool(Box::new(api.patch_status(name, &params, &patch).await?))
        }
        Key::Reservation(name) => {
            let api = Api::<AddressReservation>::all(client);
            Written::Reservation(Box::new(api.patch_status(name, &params, &patch).await?))
        }
        Key::Usage(name) => {
            let object = usages().patch_status(name, &params, &patch).await?;
            Written::Usage(Some(Box::new(object)))
        }
    })
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

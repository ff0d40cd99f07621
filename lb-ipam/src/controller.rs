//! The half that talks to the API server.
//!
//! ```text
//! Services ─┐ kube watchers            State ──inputs──▶ alloc::plan (blocking pool)
//! Pools ────┴──(merged)──▶ run loop ──▶  ▲  ◀──plan────────┘
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

use std::{convert::Infallible, time::Instant};

use fairlead_api::{CiliumLoadBalancerIPPool, names::manager};
use fairlead_rt::{CancellationToken, Metrics, clock};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use k8s_openapi::api::core::v1;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};

use crate::alloc::{Settings, plan};
use state::{Key, State, Written};
use write::Fault;

/// Patches under way at a time. An API server with a durable store groups writes that arrive together.
const WRITES: usize = 32;
/// Most events taken together before a plan is made, so that an endless storm still gets plans.
const BATCH: usize = 8192;

type Answer = (Key, Result<Written, Fault>);

/// LB-IPAM as a task.
pub struct Controller {
    client: Client,
    feed: feed::Feed,
    state: State,
    writes: FuturesUnordered<BoxFuture<'static, Answer>>,
    metrics: metrics::IpamMetrics,
}

impl Controller {
    /// Begins nothing yet; metrics are registered as area `lbipam`.
    pub fn new(client: Client, settings: Settings, metrics: &Metrics) -> Self {
        Self {
            feed: feed::all(&client),
            state: State::new(settings),
            writes: FuturesUnordered::new(),
            metrics: metrics::IpamMetrics::register(metrics),
            client,
        }
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
            let pause = self.state.wake_at(now);
            tokio::select! {
                () = stop.cancelled() => break,
                event = self.feed.next() => self.take_batch(event.expect("watchers never end")),
                Some(answer) = self.writes.next() => self.take_answer(answer),
                () = sleep_until(pause) => {}
            }
            self.replan().await;
        }
        while let Some(answer) = self.writes.next().await {
            self.take_answer(answer);
        }
        Ok(())
    }

    /// Takes an event and whatever has already arrived with it.
    fn take_batch(&mut self, first: Option<state::Change>) {
        let mut next = Some(first);
        for _ in 0..BATCH {
            let Some(event) = next else { break };
            if let Some(change) = event {
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
        let Some(inputs) = self.state.take_inputs() else {
            return;
        };
        let begun = clock::now();
        let plan = fairlead_rt::blocking(move || plan(&inputs)).await;
        self.metrics
            .planned(&plan, clock::now().duration_since(begun));
        self.state.take_plan(plan);
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
    let params = PatchParams {
        field_manager: Some(manager::LB_IPAM.to_owned()),
        ..PatchParams::default()
    };
    let patch = Patch::Json::<()>(write.body.clone());
    let answer = async {
        match &write.key {
            Key::Service(name) => Api::<v1::Service>::namespaced(client, name.namespace())
                .patch_status(name.name(), &params, &patch)
                .await
                .map(|object| Written::Service(Box::new(object))),
            Key::Pool(name) => Api::<CiliumLoadBalancerIPPool>::all(client)
                .patch_status(name, &params, &patch)
                .await
                .map(|object| Written::Pool(Box::new(object))),
        }
    };
    match tokio::time::timeout(write::DEADLINE, answer).await {
        Ok(answer) => answer.map_err(Fault::of),
        Err(_elapsed) => Err(Fault::Timeout),
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

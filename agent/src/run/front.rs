//! The stage that faces people: local API, connection to the API server, conditions on objects.

use std::{sync::Arc, time::Duration};

use fairlead_observe::ApiView;
use fairlead_rt::{BoxError, CancellationToken, ExitError, Supervisor};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{Notify, watch},
};

use crate::{
    api,
    conditions::{self, Spoken},
    connection,
    host_arp::{self, HostArp},
    views::Views,
};

/// How often conditions are judged: findings that pass within it are not worth a write.
const JUDGE: Duration = Duration::from_secs(1);

/// What the stage works with.
pub(super) struct Front {
    pub(super) views: Arc<Views>,
    pub(super) api: watch::Sender<ApiView>,
    pub(super) again: Arc<Notify>,
    /// Where `/metrics` and `/healthz` are served over TCP.
    pub(super) observers: Option<TcpListener>,
    pub(super) host_arp: watch::Sender<Arc<[HostArp]>>,
}

impl Front {
    /// Runs until `stop` fires.
    pub(super) async fn run(
        self,
        listener: UnixListener,
        stop: CancellationToken,
    ) -> Result<(), ExitError> {
        let mut tasks = Supervisor::new("front", stop);
        let client = self.views.client.clone();
        let (spoken, to_write) = watch::channel(Spoken::default());
        tasks.spawn(
            "connection",
            connection::watch(client.clone(), self.api, self.again, tasks.token()),
        );
        let api = self.views.api.clone();
        tasks.spawn(
            "conditions",
            conditions::write(client, to_write, api, tasks.token()),
        );
        tasks.spawn(
            "judge",
            judge(Arc::clone(&self.views), spoken, tasks.token()),
        );
        tasks.spawn(
            "host-arp",
            host_arp::watch(
                self.views.snapshot.clone(),
                self.views.interfaces.clone(),
                self.host_arp,
                tasks.token(),
            ),
        );
        if let Some(observers) = self.observers {
            let views = Arc::clone(&self.views);
            tasks.spawn(
                "observers",
                api::serve_observers(observers, views, tasks.token()),
            );
        }
        tasks.spawn("api", api::serve(listener, self.views, tasks.token()));
        tasks.first_exit().await
    }
}

/// What is found twice in a row is said: a finding that passes by itself within [`JUDGE`] is not.
async fn judge(
    views: Arc<Views>,
    spoken: watch::Sender<Spoken>,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    let mut before = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(JUDGE) => {}
        }
        let now = views.spoken();
        if before.as_ref() == Some(&now) && **spoken.borrow() != now {
            spoken.send_replace(Arc::new(now.clone()));
        }
        before = Some(now);
    }
}

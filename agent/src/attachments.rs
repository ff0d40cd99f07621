//! Programs on interfaces: attached once the maps are filled, tried again where the hook is busy, shown as they are.
//!
//! Invariant: nothing is detached here. A process that ends leaves its links pinned, and the next one takes them over.

use std::{collections::BTreeMap, time::Duration};

use fairlead_datapath::{Acceleration, Datapath, DatapathError, Mode};
use fairlead_netlink::{Event, Events, Link, Netlink};
use fairlead_observe::InterfaceView;
use fairlead_rt::{BoxError, CancellationToken};
use tokio::sync::watch;
use tracing::{error, info};

/// A busy hook, or an interface that is not there, is looked at again this often.
const RETRY: Duration = Duration::from_secs(5);

/// Why nothing is attached: the closed word and the sentence.
type Problem = (&'static str, String);

/// The programs and the interfaces that they belong on.
pub struct Attachments {
    /// In use on a blocking thread while `None`.
    datapath: Option<Datapath>,
    acceleration: Acceleration,
    names: Vec<String>,
    attached: BTreeMap<u32, Mode>,
    problems: BTreeMap<String, Problem>,
    view: watch::Sender<Vec<InterfaceView>>,
}

impl Attachments {
    /// Nothing is attached by this; the view shows the links.
    pub fn new(datapath: Datapath, acceleration: Acceleration, links: &[Link]) -> Self {
        let view = watch::Sender::new(Vec::new());
        let attachments = Self {
            datapath: Some(datapath),
            acceleration,
            names: links.iter().map(|link| link.name.clone()).collect(),
            attached: BTreeMap::new(),
            problems: BTreeMap::new(),
            view,
        };
        attachments.show(links);
        attachments
    }

    /// What is attached, now and later.
    pub fn view(&self) -> watch::Receiver<Vec<InterfaceView>> {
        self.view.subscribe()
    }

    /// Attaches as soon as `filled` holds, then keeps watch until told to stop.
    ///
    /// # Errors
    /// Missing rights; a netlink socket that fails for good.
    ///
    /// # Cancel safety
    /// Links stay as they are.
    pub async fn run(
        mut self,
        mut filled: watch::Receiver<bool>,
        stop: CancellationToken,
    ) -> Result<(), BoxError> {
        let mut events = Events::open()?;
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            filled = filled.wait_for(|filled| *filled) => drop(filled?),
        }
        loop {
            let links = Netlink::new().links().await?;
            self.attach_missing(&links).await?;
            self.show(&links);
            let is_whole = self.problems.is_empty();
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(RETRY), if !is_whole => {}
                changed = links_changed(&mut events) => changed?,
            }
        }
    }

    async fn attach_missing(&mut self, links: &[Link]) -> Result<(), BoxError> {
        for name in self.names.clone() {
            let Some(link) = links.iter().find(|link| link.name == name) else {
                let gone = "it does not exist any more".to_owned();
                self.problem(&name, Some(("UnknownInterface", gone)));
                continue;
            };
            if self.attached.contains_key(&link.index) {
                self.problem(&name, None);
                continue;
            }
            match self.attach(link.index).await {
                Ok(mode) => {
                    self.attached.insert(link.index, mode);
                    self.problem(&name, None);
                }
                Err(error @ DatapathError::NoBpfRights { .. }) => return Err(error.into()),
                Err(error) => {
                    let problem = (error.reason(), fairlead_rt::root::chain(&error));
                    self.problem(&name, Some(problem));
                }
            }
        }
        self.attached
            .retain(|index, _| links.iter().any(|link| link.index == *index));
        Ok(())
    }

    async fn attach(&mut self, ifindex: u32) -> Result<Mode, DatapathError> {
        let mut datapath = self
            .datapath
            .take()
            .expect("it is put back before anyone asks again");
        let acceleration = self.acceleration;
        let (datapath, outcome) = fairlead_rt::blocking(move || {
            let outcome = datapath.attach(ifindex, acceleration);
            (datapath, outcome)
        })
        .await;
        self.datapath = Some(datapath);
        let attached = outcome?;
        info!(ifindex, mode = ?attached.mode, taken_over = attached.taken_over, "attached");
        Ok(attached.mode)
    }

    /// Logs what is new.
    fn problem(&mut self, name: &str, problem: Option<Problem>) {
        match problem {
            None => drop(self.problems.remove(name)),
            Some(problem) => {
                if self.problems.get(name) != Some(&problem) {
                    let (reason, error) = &problem;
                    error!(reason, error, "interface {name}");
                    self.problems.insert(name.to_owned(), problem);
                }
            }
        }
    }

    fn show(&self, links: &[Link]) {
        let view = self.names.iter().map(|name| {
            let link = links.iter().find(|link| link.name == *name);
            let index = link.map_or(0, |link| link.index);
            InterfaceView {
                name: name.clone(),
                ifindex: index,
                mac: link.and_then(|link| link.mac).map(|mac| mac.to_string()),
                is_up: link.is_some_and(|link| link.is_up && link.has_carrier),
                xdp: match self.attached.get(&index) {
                    Some(Mode::Native) => "native",
                    Some(Mode::Generic) => "generic",
                    None => "none",
                }
                .to_owned(),
                problem: self.problems.get(name).map(|(_, why)| why.clone()),
                reason: self.problems.get(name).map(|(word, _)| (*word).to_owned()),
            }
        });
        self.view.send_replace(view.collect());
    }
}

/// Waits for an event that concerns links.
async fn links_changed(events: &mut Events) -> Result<(), BoxError> {
    loop {
        match events.next().await? {
            Event::Link(_) | Event::LinkRemoved { .. } | Event::Resync => return Ok(()),
            _ => {}
        }
    }
}

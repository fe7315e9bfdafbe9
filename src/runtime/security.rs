//! Identities and trust on the control thread: loaded with the configuration, and again whenever
//! their files change.

use std::{
    future::pending,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::pki_types::UnixTime;
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};

use super::{limits, watch::watch as watch_files};
use crate::{
    config::model::{Config, Identity, WorkloadApi},
    tls::{
        Materials, keeper,
        keeper::Keeper,
        workload::{State, Workload},
    },
};

/// How often certificates are looked at that nobody has touched.
const LOOK: Duration = Duration::from_secs(60);

/// What is loaded, and what tells that it may have changed.
pub struct Security {
    keeper: Keeper,
    /// `None`: no file to watch.
    changes: Option<mpsc::Receiver<()>>,
    agent: Option<Agent>,
    /// What the agent's watch tells of itself, for readiness.
    told: Told,
}

/// The state of the Workload API, where there is one, for whoever asks.
pub(super) type Told = Arc<Mutex<Option<watch::Receiver<State>>>>;

/// The Workload API that the configuration names.
struct Agent {
    config: WorkloadApi,
    workload: Workload,
}

impl Security {
    /// Loads what the configuration names. What isn't there yet is waited for: readiness says so.
    pub fn start(config: &Config) -> (Self, Materials) {
        let mut security = Self {
            keeper: Keeper::default(),
            changes: None,
            agent: None,
            told: Told::default(),
        };
        security.follow(config);
        let materials = security.load(config);
        (security, materials)
    }

    /// What the Workload API's watch tells of itself.
    pub fn told(&self) -> Told {
        Arc::clone(&self.told)
    }

    /// Loads it once more. What can't be used leaves what was there before.
    pub fn load(&mut self, config: &Config) -> Materials {
        let outcome = self.keeper.load(config, UnixTime::now());
        for problem in &outcome.missing {
            tracing::error!(problem, "not there yet; it is waited for");
        }
        outcome.materials
    }

    /// Loads what another configuration names.
    ///
    /// # Errors
    /// What it names and can't be used, a sentence each; then nothing has changed.
    pub fn replace(&mut self, config: &Config) -> Result<Materials, Vec<String>> {
        let mut keeper = self.keeper.clone();
        let outcome = keeper.load(config, UnixTime::now());
        if !outcome.missing.is_empty() {
            return Err(outcome.missing);
        }
        self.keeper = keeper;
        self.follow(config);
        Ok(outcome.materials)
    }

    /// Resolves when there may be something else to load, or when it is time to look whether
    /// something ends soon. Cancelling it loses nothing.
    pub async fn changed(&mut self) {
        let file = async {
            match &mut self.changes {
                Some(changes) => drop(changes.recv().await),
                None => pending().await,
            }
        };
        let sent = async {
            match &mut self.agent {
                Some(agent) => agent.workload.next().await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = file => {}
            update = sent => self.keeper.take(update.credential, update.bundles),
            () = sleep(LOOK) => {}
        }
    }

    fn follow(&mut self, config: &Config) {
        let files = keeper::files(config);
        if (config.identity.is_some() || !files.is_empty())
            && let Err(error) = limits::forbid_core_files()
        {
            tracing::warn!(%error, "a core file would hold private keys, and can't be forbidden");
        }
        self.changes = (!files.is_empty()).then(|| watch_files(files.into_iter().collect()));
        match &config.identity {
            Some(Identity::WorkloadApi(api)) => {
                if self.agent.as_ref().is_none_or(|agent| agent.config != *api) {
                    let workload = Workload::watch(api.socket.clone(), api.spiffe_id.clone());
                    let state = workload.state();
                    self.agent = Some(Agent {
                        config: api.clone(),
                        workload,
                    });
                    self.tell(Some(state));
                }
            }
            _ => {
                self.agent = None;
                self.tell(None);
            }
        }
    }

    fn tell(&self, state: Option<watch::Receiver<State>>) {
        // Every change to it is whole, so that a panic elsewhere leaves nothing half done.
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

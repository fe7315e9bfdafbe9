//! Identities and trust on the control thread: loaded with the configuration, and again whenever
//! their files change.

use std::{future::pending, time::Duration};

use rustls::pki_types::UnixTime;
use tokio::{sync::mpsc, time::timeout};

use super::watch::watch;
use crate::{
    config::model::Config,
    tls::{Materials, keeper, keeper::Keeper},
};

/// How often certificates are looked at that nobody has touched.
const LOOK: Duration = Duration::from_secs(60);

/// What is loaded, and what tells that it may have changed.
pub struct Security {
    keeper: Keeper,
    /// `None`: no file to watch.
    changes: Option<mpsc::Receiver<()>>,
}

impl Security {
    /// Loads what the configuration names. What isn't there yet is waited for: readiness says so.
    pub fn start(config: &Config) -> (Self, Materials) {
        let mut security = Self {
            keeper: Keeper::default(),
            changes: follow(config),
        };
        let materials = security.load(config);
        (security, materials)
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
        self.changes = follow(config);
        Ok(outcome.materials)
    }

    /// Resolves when a file may have changed, or when it is time to look whether something ends
    /// soon.
    pub async fn changed(&mut self) {
        match &mut self.changes {
            Some(changes) => drop(timeout(LOOK, changes.recv()).await),
            None => pending().await,
        }
    }
}

fn follow(config: &Config) -> Option<mpsc::Receiver<()>> {
    let files = keeper::files(config);
    (!files.is_empty()).then(|| watch(files.into_iter().collect()))
}

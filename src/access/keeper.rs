//! Brings the keys of token providers here and keeps them fresh, on the control thread.
//!
//! Files are read before a configuration goes live, so that a bad one refuses it, and watched from
//! then on. What has an URL is fetched in the background; nobody waits for it, and until it is
//! there tokens of its provider are invalid. Good keys are never replaced by a failure.

use std::{collections::HashMap, fs, io::Read, path::Path, sync::Arc, time::Duration};

use tokio::{task::JoinSet, time::Instant};

use super::{
    fetch::fetch,
    keys::{self, BadKeys, KeySet, MAX_SIZE, Provider},
};
use crate::{
    config::model::{Jwks, JwtAlgorithm, JwtProvider},
    runtime::watch::{fingerprint, watch},
};

/// After a first failure; twice as long after each further one, until it is `refresh`,
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// or this.
const LAST_RETRY: Duration = Duration::from_secs(60);

/// Between two fetches, however many tokens come whose keys are not here.
const PAUSE: Duration = Duration::from_secs(10);

/// The keys of all files that a configuration names, by provider.
pub type FileKeys = Vec<(Arc<str>, KeySet)>;

/// What keeps keys fresh, for the providers of the live configuration.
#[derive(Default)]
pub struct Keeper {
    running: HashMap<Arc<str>, Running>,
}

/// Dropping it ends it.
struct Running {
    provider: Arc<Provider>,
    _task: JoinSet<()>,
}

impl Keeper {
    /// Follows a new configuration: tasks for providers that are gone end, those of new ones begin,
    /// the others go on. To be called within a tokio runtime.
    pub fn reconcile(&mut self, providers: &HashMap<Arc<str>, Arc<Provider>>) {
        let mut before = std::mem::take(&mut self.running);
        let running = providers.iter().map(|(name, provider)| {
            let same = before
                .remove(name)
                .filter(|running| Arc::ptr_eq(&running.provider, provider));
            let running = same.unwrap_or_else(|| Running::start(provider));
            (Arc::clone(name), running)
        });
        self.running = running.collect();
    }
}

impl Running {
    fn start(provider: &Arc<Provider>) -> Self {
        let mut task = JoinSet::new();
        task.spawn(follow(Arc::clone(provider)));
        Self {
            provider: Arc::clone(provider),
            _task: task,
        }
    }
}

/// Reads the key files of a configuration. Blocks.
///
/// # Errors
/// Every file that can't be read, in words.
pub fn read_files(configs: &[Arc<JwtProvider>]) -> Result<FileKeys, Vec<String>> {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for config in configs {
        let Jwks::File(path) = &config.jwks else {
            continue;
        };
        match read_file(path, &config.algorithms) {
            Ok(keys) => good.push((Arc::clone(&config.name), keys)),
            Err(error) => bad.push(format!(
                "keys of JWT provider `{}`: cannot read {}: {error}",
                config.name,
                path.display()
            )),
        }
    }
    if bad.is_empty() { Ok(good) } else { Err(bad) }
}

/// Puts them where they are used.
pub fn install(keys: FileKeys, providers: &HashMap<Arc<str>, Arc<Provider>>) {
    for (name, keys) in keys {
        if let Some(provider) = providers.get(&name) {
            provider.replace(keys);
        }
    }
}

/// Why there are no keys in a file.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Bad(#[from] BadKeys),
}

fn read_file(path: &Path, algorithms: &[JwtAlgorithm]) -> Result<KeySet, Unreadable> {
    let mut text = Vec::new();
    let limit = MAX_SIZE as u64 + 1;
    fs::File::open(path)?.take(limit).read_to_end(&mut text)?;
    Ok(KeySet::parse(&text, algorithms)?)
}

async fn follow(provider: Arc<Provider>) {
    match &provider.config.jwks {
        Jwks::File(path) => follow_file(&provider, path).await,
        Jwks::Url { url, refresh } => {
            let mut patience = FIRST_RETRY;
            let mut told = None;
            loop {
                let config = &provider.config;
                let fetched = fetch(url).await.and_then(|text| {
                    let keys = KeySet::parse(&text, &config.algorithms)?;
                    provider.replace(keys);
                    Ok(())
                });
                let wait = match fetched {
                    Ok(()) => {
                        patience = FIRST_RETRY;
                        told = None;
                        // Not all at the same moment.
                        refresh.mul_f64(0.9 + 0.2 * fastrand::f64())
                    }
                    Err(error) => {
                        // Once, and not for as long as it lasts.
                        let error = error.to_string();
                        if told.as_ref() != Some(&error) {
                            tell(&provider, &error);
                            told = Some(error);
                        }
                        let wait = patience.min(*refresh);
                        patience = (patience * 2).min(LAST_RETRY);
                        wait
                    }
                };
                let asked = Instant::now();
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    // An issuer has changed its keys, or somebody makes tokens up: not at once.
                    () = provider.wanted() => {
                        tokio::time::sleep_until(asked + wait.min(PAUSE)).await;
                    }
                }
            }
        }
    }
}

async fn follow_file(provider: &Provider, path: &Path) {
    let mut changes = watch(vec![path.to_owned()]);
    let mut seen = None;
    loop {
        // Also at first: it may have changed between its first reading and now.
        let found = fingerprint(path);
        if found != seen {
            seen = found;
            match read_file(path, &provider.config.algorithms) {
                Ok(keys) => provider.replace(keys),
                Err(error) => tell(provider, &error),
            }
        }
        if changes.recv().await.is_none() {
            return;
        }
    }
}

fn tell(provider: &Provider, error: &dyn std::fmt::Display) {
    tracing::warn!(
        provider = %provider.config.name,
        source = keys::source(&provider.config),
        %error,
        "keys of a JWT provider can't be had; the old ones stay"
    );
}

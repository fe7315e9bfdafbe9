//! The admin server: what an operator asks and tells a running process.
//!
//! It runs on the control thread, so that nothing it does can hold up a request. What it may see
//! and do is behind [`Control`].

mod guard;
mod negotiate;
mod page;
mod routes;
mod server;

use std::{future::Future, pin::Pin};

pub use server::{Scope, bind, serve};

use crate::telemetry::metrics::Format;

/// What the admin server needs of the process.
pub trait Control: Send + Sync {
    /// Whether traffic may be sent here. Never depends on the health of upstreams.
    fn readiness(&self) -> Readiness;

    /// The configuration in force, defaults filled in, secrets redacted.
    fn config(&self) -> serde_json::Value;

    /// Endpoints with their state.
    fn upstreams(&self) -> serde_json::Value;

    /// The faults that rules inject, and whether they are on.
    fn faults(&self) -> serde_json::Value;

    /// Switches those of the rule or the route of this name, or all of them; how many there were.
    fn switch_faults(&self, enabled: bool, route: Option<&str>) -> usize;

    /// Begins the drain, as SIGTERM does. Once it has begun, nothing happens.
    fn drain(&self);

    /// Reads the configuration again; done once it is live (its generation) or refused. A caller
    /// that hangs up drops the future, which must not stop the reload half-way.
    fn reload(&self) -> BoxFuture<Result<u64, ReloadRefused>>;

    /// A scrape.
    fn metrics(&self, format: Format) -> String;

    /// The filter of the process's own log, in the form of `RUST_LOG`.
    fn log_level(&self) -> String;

    /// Replaces it; the error says what is wrong with the new one.
    fn set_log_level(&self, filter: &str) -> Result<(), String>;
}

/// A future that owns what it needs.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Why a new configuration was not taken.
#[derive(Clone, Debug)]
pub struct ReloadRefused {
    /// An array with an object for each problem, for programs.
    pub problems: serde_json::Value,
    /// The same as `pillion check` prints it, for people.
    pub text: String,
}

/// The answer to `/readyz`.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    /// Ready means that all of them hold.
    pub conditions: Vec<Condition>,
    /// The reload that was refused last, unless one was accepted since. Information only: a bad
    /// file never makes a process that serves a good one unready.
    pub refused_reload: Option<String>,
}

/// One thing that must hold.
#[derive(Clone, Debug)]
pub struct Condition {
    pub name: &'static str,
    pub ok: bool,
    /// What is the matter, or how much of it there is.
    pub detail: String,
}

impl Readiness {
    pub fn is_ready(&self) -> bool {
        self.conditions.iter().all(|condition| condition.ok)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use serde_json::json;

    use super::*;

    /// A process that remembers what it was told.
    #[derive(Default)]
    pub(super) struct Fake {
        pub(super) draining: Mutex<bool>,
        faulty: Mutex<bool>,
        pub(super) refused: Mutex<Option<String>>,
        level: Mutex<Option<String>>,
    }

    impl Control for Fake {
        fn readiness(&self) -> Readiness {
            let draining = *self.draining.lock().unwrap();
            let condition = |name, ok, detail: &str| Condition {
                name,
                ok,
                detail: detail.into(),
            };
            Readiness {
                conditions: vec![
                    condition("listeners", true, "1 bound"),
                    condition("serving", !draining, if draining { "draining" } else { "" }),
                ],
                refused_reload: self.refused.lock().unwrap().clone(),
            }
        }

        fn config(&self) -> serde_json::Value {
            json!({ "listeners": [] })
        }

        fn upstreams(&self) -> serde_json::Value {
            json!([])
        }

        fn faults(&self) -> serde_json::Value {
            json!([{ "rule": "shop/0", "enabled": *self.faulty.lock().unwrap() }])
        }

        fn switch_faults(&self, enabled: bool, route: Option<&str>) -> usize {
            if route.is_some_and(|route| route != "shop/0") {
                return 0;
            }
            *self.faulty.lock().unwrap() = enabled;
            1
        }

        fn drain(&self) {
            *self.draining.lock().unwrap() = true;
        }

        fn reload(&self) -> BoxFuture<Result<u64, ReloadRefused>> {
            let refused = self.refused.lock().unwrap().clone();
            Box::pin(async {
                match refused {
                    None => Ok(2),
                    Some(text) => Err(ReloadRefused {
                        problems: json!([{ "message": "no" }]),
                        text,
                    }),
                }
            })
        }

        fn metrics(&self, format: Format) -> String {
            format!("{format:?}")
        }

        fn log_level(&self) -> String {
            self.level
                .lock()
                .unwrap()
                .clone()
                .unwrap_or_else(|| "info".into())
        }

        fn set_log_level(&self, filter: &str) -> Result<(), String> {
            if filter == "loud" {
                return Err("no level".into());
            }
            *self.level.lock().unwrap() = Some(filter.into());
            Ok(())
        }
    }
}

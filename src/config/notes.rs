//! What a configuration does that whoever wrote it may not have meant.

use crate::telemetry::otlp::Signal;

/// Told of each configuration that is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// What the environment switches off of it.
    pub(super) overruled: Vec<Overruled>,
    /// What holds, but is hardly meant so, for a person.
    pub(super) doubts: Vec<String>,
}

impl Notes {
    /// Says it in the log.
    pub fn tell(&self) {
        self.overruled.iter().for_each(Overruled::tell);
        for doubt in &self.doubts {
            tracing::warn!("{doubt}");
        }
    }
}

/// A signal that is not exported though the files want it to be: nobody who reads only those would
/// know why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Overruled {
    pub(super) signal: Signal,
    /// The variable that has it so.
    pub(super) by: String,
}

impl Overruled {
    /// Requests that are logged nowhere are worth a warning.
    fn tell(&self) {
        let by = &*self.by;
        match self.signal {
            Signal::Logs => tracing::warn!(
                by,
                "the environment switches the export of logs off: `accessLog.output` is otlp, so no request is logged"
            ),
            Signal::Traces => {
                tracing::info!(
                    by,
                    "the environment switches `tracing` off: there are no spans"
                );
            }
            Signal::Metrics => tracing::info!(
                by,
                "the environment switches `metrics.otlp` off: metrics are on the admin server alone"
            ),
        }
    }
}

//! What a file has on and the environment switches off.

use crate::telemetry::otlp::Signal;

/// A signal that is not exported though the files want it to be: nobody who reads only those would
/// know why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overruled {
    pub(super) signal: Signal,
    /// The variable that has it so.
    pub(super) by: String,
}

impl Overruled {
    /// Says so in the log. Requests that are logged nowhere are worth a warning.
    pub fn tell(&self) {
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

//! Compares the endpoints of every upstream, so that outliers are ejected.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::worker::Shared;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// Looks for as long as the process lives.
pub(super) async fn watch(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let snapshot = shared.snapshot.load_full();
        for upstream in snapshot.upstreams.values() {
            upstream.health.examine(Instant::now());
        }
    }
}

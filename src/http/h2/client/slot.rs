//! What a request holds of a connection that it shares with others.

use std::rc::Rc;

use tokio::time::Instant;

use super::Http2;
use crate::tls::Leash;

/// One stream's place on a connection.
#[derive(Debug)]
pub struct Slot(pub(super) Rc<Http2>);

impl Slot {
    /// Whether it can carry what is no HTTP any more after the first answer (RFC 8441).
    pub async fn knows_extended_connect(&self) -> bool {
        self.0.knows_extended_connect().await
    }

    /// Whether its connection was there before `moment`.
    pub fn is_older_than(&self, moment: Instant) -> bool {
        self.0.born < moment
    }

    /// How its connection is held, where there is TLS.
    pub fn leash(&self) -> Option<Rc<Leash>> {
        self.0.leash.clone()
    }

    pub fn take(conn: &Rc<Http2>) -> Self {
        conn.active.set(conn.active.get() + 1);
        Self(Rc::clone(conn))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
        self.0.room.notify_one();
        if self.0.active.get() == 0 {
            self.0.idle_since.set(Instant::now());
        }
    }
}

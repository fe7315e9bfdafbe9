//! Connections to HTTP/2 upstreams, which many requests share.

use std::{rc::Rc, sync::Arc};

use tokio::{sync::Notify, time::Instant};

use super::Pools;
use crate::{
    error::Result,
    http::h2::client::{Http2, Slot},
    upstream::{ConnectionPermit, Endpoint, EndpointId, Upstream, opening::Opening},
    worker::Conn,
};

impl Pools {
    /// A place for one stream over HTTP/2.
    ///
    /// # Errors
    /// Nothing has been sent in any of them.
    pub async fn http2(
        self: &Rc<Self>,
        upstream: &Arc<Upstream>,
        endpoint: &Endpoint,
        client: &Conn,
    ) -> Result<Slot> {
        if upstream.config.proxy_protocol.is_none()
            && let Some(slot) = self.shared(upstream, endpoint.id)
        {
            upstream.metrics.pool_hit(self.worker);
            return Ok(slot);
        }
        // Boxed, as for HTTP/1.1.
        Box::pin(self.missing_http2(upstream, endpoint, client)).await
    }

    /// A place on a connection that is open and has one.
    fn shared(self: &Rc<Self>, upstream: &Arc<Upstream>, endpoint: EndpointId) -> Option<Slot> {
        let mut pools = self.endpoints.borrow_mut();
        let pool = self.pool(&mut pools, upstream, endpoint);
        let conn = pool.shared.iter().find(|conn| conn.has_room())?;
        Some(Slot::take(conn))
    }

    /// Waits for a place, or opens a connection.
    async fn missing_http2(
        self: &Rc<Self>,
        upstream: &Arc<Upstream>,
        endpoint: &Endpoint,
        client: &Conn,
    ) -> Result<Slot> {
        if upstream.config.proxy_protocol.is_some() {
            // Such a connection speaks for one client only: there is nothing to share.
            upstream.metrics.pool_miss(self.worker);
            let permit = self.permit(upstream).await?;
            let room = Rc::default();
            let conn = self
                .open_http2(upstream, endpoint, permit, client, room)
                .await?;
            return Ok(Slot::take(&conn));
        }
        loop {
            let (opened, room) = match self.turn(upstream, endpoint.id) {
                Turn::Take(slot) => {
                    upstream.metrics.pool_hit(self.worker);
                    return Ok(slot);
                }
                Turn::Wait(opening, room) => {
                    let _pending = self.pending(upstream)?;
                    let _counted = upstream.metrics.waiting(self.worker);
                    tokio::select! {
                        biased;
                        opened = opening.ended() => opened?,
                        () = room.notified() => {}
                    }
                    continue;
                }
                Turn::Open(opened, room) => (opened, room),
            };
            let permit = match upstream.limits.try_connection() {
                Some(permit) => permit,
                None => tokio::select! {
                    biased;
                    permit = self.permit(upstream) => permit?,
                    // At the limit a stream that ends is as good as a connection.
                    () = room.notified() => continue,
                },
            };
            upstream.metrics.pool_miss(self.worker);
            let conn = self
                .open_http2(upstream, endpoint, permit, client, room)
                .await
                .inspect_err(|error| opened.opening.fail(error))?;
            let slot = Slot::take(&conn);
            let mut pools = self.endpoints.borrow_mut();
            self.pool(&mut pools, upstream, endpoint.id)
                .shared
                .push(conn);
            // `opened` looks into the pools as it goes.
            drop(pools);
            return Ok(slot);
        }
    }

    /// What a request for a place on a shared connection has to do.
    fn turn<'p>(self: &'p Rc<Self>, upstream: &Arc<Upstream>, endpoint: EndpointId) -> Turn<'p> {
        if let Some(slot) = self.shared(upstream, endpoint) {
            return Turn::Take(slot);
        }
        let mut pools = self.endpoints.borrow_mut();
        let pool = self.pool(&mut pools, upstream, endpoint);
        let room = Rc::clone(&pool.room);
        if let Some(opening) = &pool.opening {
            return Turn::Wait(Rc::clone(opening), room);
        }
        let opening = Rc::<Opening>::default();
        pool.opening = Some(Rc::clone(&opening));
        let opened = Opened {
            pools: self,
            endpoint,
            opening,
        };
        Turn::Open(opened, room)
    }

    async fn open_http2(
        &self,
        upstream: &Arc<Upstream>,
        endpoint: &Endpoint,
        permit: ConnectionPermit,
        client: &Conn,
        room: Rc<Notify>,
    ) -> Result<Rc<Http2>> {
        let (stream, lease) = self.open(upstream, endpoint, permit, client).await?;
        Ok(Http2::open(stream, lease, room, Instant::now()))
    }
}

enum Turn<'p> {
    Take(Slot),
    /// Until another one has opened a connection, or a stream has ended.
    Wait(Rc<Opening>, Rc<Notify>),
    Open(Opened<'p>, Rc<Notify>),
}

/// Ends an opening, also when its request is dropped: the others must not wait for ever.
struct Opened<'a> {
    pools: &'a Pools,
    endpoint: EndpointId,
    opening: Rc<Opening>,
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        if let Some(pool) = self.pools.endpoints.borrow_mut().get_mut(&self.endpoint) {
            pool.opening = None;
        }
        self.opening.end();
    }
}
